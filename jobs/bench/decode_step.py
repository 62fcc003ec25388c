"""One decode step's attention with its prefixes shared, and the same rows each with all their own.

    python jobs/bench/decode_step.py llama-25m float32 cpu 1x16 4x16

Both steps are planned, batched and laid out by the engine's own code, and go through its dispatch
layer by layer, each layer with KV memory of its own. In the second no two prompts begin alike, so
that nothing is shared; its KV memory holds the same keys and values. Prints a JSON list.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from models import SHAPES, Shape
from torch import Tensor

from batchpipe.engine.host_memory import keep_freed_memory
from batchpipe.engine.token_batch import form
from batchpipe.job.kv_memory import blocks_for_all
from batchpipe.kernels.dispatch import Dispatch, device_of, path_for
from batchpipe.kernels.layout import Layout
from batchpipe.kernels.reference import Variant
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger, blocks_for
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

PREFIX_TOKENS = 2000
SUFFIX_TOKENS = (24, 72)  # shortest and longest of the rows' own
ANSWER_TOKENS = 3  # the one behind the prompt, the one that the step draws, and one to spare
KV_BYTES = 3 << 29  # 1.5 GB: as many of the model's layers as both steps have room for in it
LEAST_ROUNDS, LEAST_SECONDS = 7, 1.0  # of each kind of step
ROUNDINGS = 4  # of the largest result, by which both may differ, beside those of its sum


@dataclass(frozen=True, slots=True)
class Crowd:
    """Rows that decode: groups, and in each of them so many rows below one prefix."""

    groups: int
    degree: int
    prefix_tokens: int = PREFIX_TOKENS

    @classmethod
    def parse(cls, text: str) -> Crowd:
        """From ``4x16``: four groups of sixteen rows."""
        groups, degree = map(int, text.split("x"))
        return cls(groups, degree)

    @property
    def rows(self) -> int:
        """All of them."""
        return self.groups * self.degree

    def prompts(self, *, shared: bool) -> Prompts:
        """Each group's prefix, then what each row has alone; tokens rise, so order is kept.

        Not shared, every prompt begins with a token that no other has.
        """
        draw = np.random.default_rng(0)
        rows = []
        for row in range(self.rows):
            first = row // self.degree if shared else row
            suffix = draw.integers(*SUFFIX_TOKENS, endpoint=True)
            rows.append([first] + [0] * (self.prefix_tokens - 1) + [row] * int(suffix))
        return Prompts.pack(rows)


@dataclass(frozen=True, slots=True, eq=False)
class Decodes:
    """A step in which every row decodes, and the KV memory of each layer that it reads."""

    layout: Layout
    keys: list[Tensor]  # [slots, kv_heads, head_dim]
    values: list[Tensor]  # [slots, kv_heads, head_dim]

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Every layer's attention; the step is new to the dispatch, as each of a run is."""
        dispatch, variant = Dispatch(), Variant(scale=query.shape[-1] ** -0.5)
        return [
            dispatch.attend(query, key, value, keys, values, self.layout, variant)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]


def laid_out(prompts: Prompts, device: torch.device) -> tuple[Layout, int]:
    """The step behind the prompts' last tokens, and the slots of the KV memory that it needs."""
    sampling = Sampling(max_tokens=ANSWER_TOKENS, ignore_eos=True)
    plan = make_plan(prompts, [sampling] * len(prompts), order="input")
    longest = int(prompts.lengths.max())  # admission keeps room for one more path than there is
    blocks = blocks_for_all(plan) + blocks_for(longest)
    batcher = TokenBatcher(plan, KVLedger(blocks), Full(int(prompts.lengths.sum())))
    prefill = batcher.next_step()
    assert prefill is not None, "there are no rows"
    for sequence in prefill.ending:
        sequence.answer.append(0)
    batcher.computed(prefill)
    decodes = batcher.next_step()
    assert decodes is not None, "every row has its answer"
    assert not decodes.chunks, "the prompts took more than a step"
    batch = form(decodes.all_chunks(), device)
    assert [sequence.index for sequence in batch.sequences] == list(range(len(prompts)))
    return batch.layout, blocks * BLOCK_TOKENS


def contexts(layout: Layout) -> list[Tensor]:
    """The slots that each row reads, by position."""
    of_row: list[list[tuple[int, Tensor]]] = [[] for _ in range(len(layout.positions))]
    for read in layout.reads():
        for row in range(read.query_start, read.query_end):
            of_row[row].append((read.position, read.slots))
    return [
        torch.cat([slots for _, slots in sorted(reads, key=lambda read: read[0])])
        for reads in of_row
    ]


def both(
    crowd: Crowd, shape: Shape, dtype: torch.dtype, device: torch.device
) -> tuple[Decodes, Decodes]:
    """The rows' step with shared prefixes and without, over the same keys and values."""
    layouts, slots = zip(
        *(laid_out(crowd.prompts(shared=shared), device) for shared in (True, False)), strict=True
    )
    slot_bytes = 2 * shape.kv_heads * shape.head_dim * dtype.itemsize
    layers = max(1, min(shape.layers, KV_BYTES // (sum(slots) * slot_bytes)))
    read, own = (torch.cat(contexts(layout)) for layout in layouts)
    steps = tuple(Decodes(layout, [], []) for layout in layouts)
    for _ in range(layers):
        for name in ("keys", "values"):
            sizes = [(count, shape.kv_heads, shape.head_dim) for count in slots]
            shared = torch.empty(sizes[0], dtype=dtype, device=device).normal_()
            private = torch.zeros(sizes[1], dtype=dtype, device=device)
            private[own] = shared[read]
            for step, cache in zip(steps, (shared, private), strict=True):
                getattr(step, name).append(cache)
    return steps[0], steps[1]


def measured(
    crowd: Crowd, shape: Shape, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Medians of both steps, interleaved, and how far their results are apart."""
    steps = both(crowd, shape, dtype, device)
    query, key, value = _drawn(crowd.rows, shape, dtype, device)
    shared, private = (step.attended(query, key, value) for step in steps)  # warms up as well
    largest = max(float(each.abs().max()) for each in private)
    apart = max(float((a - b).abs().max()) for a, b in zip(shared, private, strict=True))
    # Sums of so many float32 terms, taken in two orders, walk apart by the root of their number.
    walked = int(steps[0].layout.positions.max()) ** 0.5 * torch.finfo(torch.float32).eps
    tolerated = largest * (ROUNDINGS * torch.finfo(dtype).eps + walked)
    assert apart <= tolerated, f"results are {apart:.2g} apart, {tolerated:.2g} is rounding"
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in _rounds(seconds):
        for side in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            steps[side].attended(query, key, value)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[side].append(time.perf_counter() - started)
    layers = len(steps[0].keys)
    shared_ms, private_ms = (1e3 * median(each) / layers for each in seconds)
    heads = (shape.head_dim, shape.head_dim)
    return {
        "path": path_for(device_of(device), dtype, heads, Variant(scale=1.0)),
        "dtype": str(dtype).removeprefix("torch."),
        "groups": crowd.groups,
        "degree": crowd.degree,
        "layers": layers,
        "rounds": len(seconds[0]),
        "private_ms": round(private_ms, 4),
        "shared_ms": round(shared_ms, 4),
        "ratio": round(private_ms / shared_ms, 3),
        "apart": float(f"{apart:.2g}"),
    }


def _rounds(seconds: tuple[list[float], list[float]]) -> Iterator[int]:
    """Turns until both kinds of step were measured often and long enough."""
    turn = 0
    while turn < LEAST_ROUNDS or min(map(sum, seconds)) < LEAST_SECONDS:
        yield turn
        turn += 1


def _drawn(
    rows: int, shape: Shape, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows' queries, keys and values, in the form that a model's layers give them."""
    heads = (shape.heads, shape.kv_heads, shape.kv_heads)
    drawn = [torch.randn(count, rows, shape.head_dim).to(device, dtype) for count in heads]
    query, key, value = (each.transpose(0, 1) for each in drawn)
    return query, key, value


def main(shape: str, dtype: str, device: str, *crowds: str) -> None:
    """All crowds measured on the device, if it is there."""
    torch.manual_seed(0)
    keep_freed_memory()  # as the engine does
    if device == "cuda" and not torch.cuda.is_available():
        crowds = ()
    of_torch = (SHAPES[shape], getattr(torch, dtype), torch.device(device))
    rows = [measured(Crowd.parse(crowd), *of_torch) for crowd in crowds]
    print(json.dumps({"figures": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
