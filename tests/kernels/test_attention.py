"""The fast paths against the specification, on the steps of real plans."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from dry_run import DryRun, ample_blocks
from torch import Tensor

from batchpipe.engine.reads import SHARED_READ_MIN_KEYS
from batchpipe.engine.token_batch import form
from batchpipe.kernels import attention, reference
from batchpipe.kernels.attention import DENSE_MIN_QUERIES, WHOLE_SQUARE_TOKENS
from batchpipe.kernels.layout import Layout
from batchpipe.kernels.reference import Variant
from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

CPU = torch.device("cpu")
Attend = Callable[..., Tensor]  # as `attention.attend`
# Outputs are means of unit normals, so these are rounding of about one: float32 sums in another
# order, bfloat16 weights and outputs with 8 bits (2**-8 = 0.004) in each of up to four parts.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- steps of real plans --------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """The layouts of a whole plan, in order, and the slots they need."""

    layouts: tuple[Layout, ...]
    slots: int


def steps_of(
    rows: list[list[int]],
    lengths: list[int],
    *,
    step_tokens: int,
    scattered: bool = False,
    last_layer: bool = False,
) -> Steps:
    """The plan's steps, as the first layers compute them or as the last one does.

    ``scattered`` leaves only every other block free, so nothing is a run.
    """
    samplings = [Sampling(max_tokens=length, ignore_eos=True) for length in lengths]
    plan = make_plan(Prompts.pack(rows), samplings)
    kv_blocks = ample_blocks(plan) * (2 if scattered else 1)
    batcher = TokenBatcher(plan, KVLedger(kv_blocks), Full(step_tokens))
    run = DryRun(plan, batcher, [s.max_tokens for s in plan.samplings], step_tokens)
    if scattered:
        taken = batcher.ledger.take(kv_blocks)
        batcher.ledger.give_back(taken[::2])
        run.reserved = taken[1::2]
    batches = [form(chunks, CPU) for chunks in run.steps()]
    layouts = [
        batch.last_layer.layout if last_layer and batch.last_layer else batch.layout
        for batch in batches
    ]
    return Steps(tuple(layouts), kv_blocks * BLOCK_TOKENS)


def tree_rows() -> tuple[list[list[int]], list[int]]:
    """Three levels: a long stem, branches of odd lengths, tails of one token and of 63 and 65."""
    rng = np.random.default_rng(0)
    stem = rng.integers(0, 50, 129).tolist()
    rows = []
    for branch in (1, 30, 65):
        middle = rng.integers(0, 50, branch).tolist()
        rows += [stem + middle + rng.integers(0, 50, n).tolist() for n in (1, 2, 63, 65)]
    rows += [rng.integers(0, 50, n).tolist() for n in (1, 63)]  # strangers
    return rows, [1 + index % 5 for index in range(len(rows))]


def wide_rows() -> tuple[list[list[int]], list[int]]:
    """Sixty short tails below one prefix of 300: decodes that read it together."""
    rng = np.random.default_rng(1)
    stem = rng.integers(0, 50, 300).tolist()
    return [[*stem, place, 7] for place in range(60)], [3] * 60


TREE = steps_of(*tree_rows(), step_tokens=10_000)
TREE_IN_CHUNKS = steps_of(*tree_rows(), step_tokens=48)
TREE_SCATTERED = steps_of(*tree_rows(), step_tokens=100, scattered=True)
TREE_LAST_LAYER = steps_of(*tree_rows(), step_tokens=48, last_layer=True)
WIDE = steps_of(*wide_rows(), step_tokens=10_000)
STEPS = {
    "at-once": TREE,
    "in-chunks": TREE_IN_CHUNKS,
    "scattered": TREE_SCATTERED,
    "last-layer": TREE_LAST_LAYER,
    "wide": WIDE,
}


@dataclass(frozen=True)
class Heads:
    query: int
    kv: int
    size: int


def compare(
    steps: Steps,
    heads: Heads,
    variant: Variant,
    dtype: torch.dtype = torch.float32,
    sinks: Tensor | None = None,
    most_steps: int = 8,
    attend: Attend = attention.attend,
) -> None:
    """Each step's attention is that of the specification over the same cache."""
    draw = torch.Generator().manual_seed(0)
    key_cache = torch.full((steps.slots, heads.kv, heads.size), float("nan"), dtype=dtype)
    value_cache = key_cache.clone()
    places = np.linspace(0, len(steps.layouts) - 1, most_steps).astype(int).tolist()
    for place, layout in enumerate(steps.layouts):
        queries, tokens = len(layout.positions), len(layout.write_slots)
        # Laid out as transformers hands them over: heads outside tokens.
        query, key, value = (
            torch.randn(h, count, heads.size, generator=draw).to(dtype).transpose(0, 1)
            for h, count in ((heads.query, queries), (heads.kv, tokens), (heads.kv, tokens))
        )
        if place not in places:
            key_cache[layout.write_slots] = key
            value_cache[layout.write_slots] = value
            continue
        found = attend(query, key, value, key_cache, value_cache, layout, variant, sinks)
        assert found.dtype == dtype
        torch.testing.assert_close(key_cache[layout.write_slots], key, rtol=0, atol=0)
        expected = reference.attend(
            query, key_cache, value_cache, layout.positions, layout.reads(), variant, sinks
        )
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=TOLERANCE[dtype])


def scale(size: int) -> float:
    return 1 / math.sqrt(size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_equals_the_specification(name: str, dtype: torch.dtype) -> None:
    compare(STEPS[name], Heads(4, 2, 64), Variant(scale(64)), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "heads", [Heads(2, 2, 16), Heads(4, 2, 60), Heads(4, 1, 64), Heads(4, 1, 128), Heads(4, 4, 60)]
)
def test_heads_share_their_key_head(heads: Heads, dtype: torch.dtype) -> None:
    compare(TREE, heads, Variant(scale(heads.size)), dtype, most_steps=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("window", [1, 2, 17, 64, 150, 10_000])
@pytest.mark.parametrize("name", STEPS)
def test_windows_hide_what_is_too_old(name: str, window: int, dtype: torch.dtype) -> None:
    compare(STEPS[name], Heads(2, 1, 16), Variant(scale(16), window=window), dtype, most_steps=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 17])
@pytest.mark.parametrize("name", STEPS)
def test_soft_caps_and_sinks_hold_together_with_windows(
    name: str, window: int | None, dtype: torch.dtype
) -> None:
    sinks = torch.tensor([-1.0, 0.5, 2.0, 8.0], dtype=dtype)
    plain_variant = Variant(scale(16), window=window)
    capped = Variant(scale(16), window=window, softcap=2.0)
    compare(STEPS[name], Heads(4, 2, 16), plain_variant, dtype, sinks, most_steps=3)
    compare(STEPS[name], Heads(4, 2, 16), capped, dtype, None, most_steps=3)
    compare(STEPS[name], Heads(4, 2, 16), capped, dtype, sinks, most_steps=3)


def test_these_plans_reach_every_path() -> None:
    shared = [
        read for steps in STEPS.values() for layout in steps.layouts for read in layout.shared
    ]
    queries = [read.read.query_end - read.read.query_start for read in shared]
    assert max(queries) >= DENSE_MIN_QUERIES > min(queries)
    assert {read.run is None for read in shared} == {True, False}
    decoding = WIDE.layouts[-1]
    assert not decoding.squares
    assert max(len(read.read.slots) for read in decoding.shared) >= 300
    groups = [len(layout.singles) for steps in STEPS.values() for layout in steps.layouts]
    assert max(groups) > 1  # singles of unlike lengths
    assert min(groups) == 0


@pytest.mark.parametrize("name", STEPS)
def test_each_query_reads_every_position_up_to_its_own_once(name: str) -> None:
    for layout in STEPS[name].layouts:
        seen: list[list[int]] = [[] for _ in layout.positions]
        for read in layout.reads():
            for query in range(read.query_start, read.query_end):
                keys = range(read.position, read.position + len(read.slots))
                seen[query] += [at for at in keys if at <= layout.positions[query]]
        assert [sorted(s) for s in seen] == [list(range(p + 1)) for p in layout.positions.tolist()]


@pytest.mark.parametrize("name", STEPS)
def test_shared_keys_lie_in_the_past_of_all_their_queries(name: str) -> None:
    for shared in (shared for layout in STEPS[name].layouts for shared in layout.shared):
        assert shared.read.position + len(shared.read.slots) <= shared.first_query_position
        assert shared.first_query_position <= shared.last_query_position
        if shared.run is not None:
            run = torch.arange(shared.run.start, shared.run.stop)
            assert torch.equal(shared.read.slots, run)


def test_widely_shared_prefix_is_read_once() -> None:
    reads = WIDE.layouts[-1].shared
    assert [(read.read.query_start, read.read.query_end) for read in reads] == [(0, 60)]
    assert SHARED_READ_MIN_KEYS <= 60 * 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("whole_tokens", [16, WHOLE_SQUARE_TOKENS])
def test_a_large_square_is_cut_and_equals_the_specification(
    whole_tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WHOLE_SQUARE_TOKENS", whole_tokens)
    prompts = [[place % 7 for place in range(1 + 2 * whole_tokens)], [9] * (5 * whole_tokens // 2)]
    steps = steps_of(prompts, [2, 2], step_tokens=10_000)
    assert all(end - start > whole_tokens for start, end in steps.layouts[0].squares)
    compare(steps, Heads(4, 2, 64), Variant(scale(64)), dtype)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("window", [None, 40])
def test_one_broken_row_breaks_no_other(window: int | None, softcap: float | None) -> None:
    """NaN in the keys of a row, wherever they lie, stays with that row."""
    heads, variant = Heads(2, 1, 16), Variant(scale(16), window=window, softcap=softcap)
    # Strangers of many lengths, so that most singles are padded.
    rows = [[place] * (1 + 3 * place) for place in range(1, 20)]
    steps = steps_of(rows, [2] * len(rows), step_tokens=10_000)
    layout = steps.layouts[-1]
    assert any(len(set(group.lengths.tolist())) > 1 for group in layout.singles)
    draw = torch.Generator().manual_seed(0)
    shape = (steps.slots, heads.kv, heads.size)
    key_cache, value_cache = (torch.randn(shape, generator=draw) for _ in range(2))
    queries = len(layout.positions)
    query = torch.randn(queries, heads.query, heads.size, generator=draw)
    key, value = (torch.randn(queries, heads.kv, heads.size, generator=draw) for _ in range(2))
    whole = attention.attend(query, key, value, key_cache, value_cache, layout, variant)
    own_slots = {read.query_start: read.slots[:-1] for read in layout.reads()}
    for broken in (0, 7, queries - 1):
        spoilt_keys, spoilt_values = key_cache.clone(), value_cache.clone()
        spoilt_keys[own_slots[broken]] = float("nan")
        spoilt_values[own_slots[broken]] = float("nan")
        found = attention.attend(query, key, value, spoilt_keys, spoilt_values, layout, variant)
        others = torch.arange(queries) != broken
        torch.testing.assert_close(found[others], whole[others])
