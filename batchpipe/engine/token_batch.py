"""From the planner's chunks to tensors: what one forward pass computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchpipe.engine.reads import Integers, Single, StepReads, divide
from batchpipe.kernels.layout import Layout, SharedRead, Singles
from batchpipe.kernels.reference import Read
from batchpipe.planner.schedule.segment import Chunk
from batchpipe.planner.schedule.segment import Sequence as Running

LEAST_UNREAD = 2  # tokens for each that draws, from which on the last layer leaves the others out
SHORTEST_SINGLES = 64  # singles of up to so many keys are padded together, then each doubling


@dataclass(frozen=True, slots=True, eq=False)
class SomeTokens:
    """Some of a step's tokens, and what these alone read; the keys of all are written."""

    tokens: Tensor  # int64, ascending  # [queries of the layout]
    layout: Layout


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """One step's tokens, packed without padding; prefill and decode look the same."""

    input_ids: Tensor  # int64  # [tokens]
    layout: Layout
    last_layer: SomeTokens | None  # what it computes; None: all
    sampled: Tensor  # int64, the tokens behind which one is drawn or scored  # [read]
    sequences: tuple[Running, ...]  # who draws; with a draft several times  # [draws]


def form(chunks: Sequence[Chunk], device: torch.device) -> TokenBatch:
    """The batch that computes these chunks, which lie in tree order."""
    lengths = [chunk.end - chunk.start for chunk in chunks]
    starts = [0, *np.cumsum(lengths).tolist()]
    positions = np.concatenate(
        [
            np.arange(chunk.segment.position + chunk.start, chunk.segment.position + chunk.end)
            for chunk in chunks
        ]
    )
    write_slots = np.concatenate([chunk.segment.slots[chunk.start : chunk.end] for chunk in chunks])
    input_ids = np.concatenate([chunk.token_ids() for chunk in chunks])
    sampled, sequences = _draws(chunks, starts)
    reads = divide(chunks, starts)
    to_device = _Sender(device)
    written = to_device(write_slots)
    layout = _layout(reads, positions, written, to_device)
    last_layer = None
    if LEAST_UNREAD * len(sampled) <= len(positions):
        some = sampled if len(sampled) else np.zeros(1, dtype=np.int64)  # no layer has none
        reads = reads.only(some, positions, write_slots)
        last_layer = SomeTokens(
            to_device(some), _layout(reads, positions[some], written, to_device)
        )
    return TokenBatch(
        input_ids=to_device(input_ids),
        layout=layout,
        last_layer=last_layer,
        sampled=to_device(sampled),
        sequences=sequences,
    )


def _layout(
    reads: StepReads,
    positions: Integers,  # [queries]
    write_slots: Tensor,  # on the device  # [tokens]
    to_device: _Sender,
) -> Layout:
    return Layout(
        positions=to_device(positions),
        write_slots=write_slots,
        squares=tuple(reads.squares),
        singles=tuple(_pad(group, to_device) for group in _by_length(reads.singles)),
        shared=tuple(
            SharedRead(
                Read(start, end, to_device(slots), position),
                _as_slice(slots),
                int(positions[start:end].min()),
                int(positions[start:end].max()),
            )
            for start, end, slots, position in reads.shared
        ),
    )


def _draws(
    chunks: Sequence[Chunk], starts: list[int]
) -> tuple[Integers, tuple[Running, ...]]:  # [read], [draws]
    """The tokens behind which one is drawn or scored, ascending, and who draws."""
    sampled: list[int] = []
    sequences: list[Running] = []
    for row, chunk in enumerate(chunks):
        sampled.extend(starts[row] + place - chunk.start for place in chunk.scoring)
        if chunk.sequence is None:
            continue
        count = len(chunk.drawing)
        sampled.extend(range(starts[row + 1] - count, starts[row + 1]))
        sequences.extend([chunk.sequence] * count)
    return np.asarray(sampled, dtype=np.int64), tuple(sequences)


class _Sender:
    """Copies host integers to the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, numbers: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64, copy=False)).to(
            self.device, non_blocking=True
        )


def _as_slice(slots: Integers) -> slice | None:
    first, count = int(slots[0]), len(slots)
    if int(slots[-1]) - first == count - 1 and bool((np.diff(slots) == 1).all()):
        return slice(first, first + count)
    return None


def _by_length(singles: list[Single]) -> list[list[Single]]:
    """Groups in which padding at most doubles a row."""
    groups: dict[int, list[Single]] = {}
    for single in singles:
        doublings = max(0, (len(single[1]) - 1) // SHORTEST_SINGLES).bit_length()
        groups.setdefault(doublings, []).append(single)
    return [groups[doublings] for doublings in sorted(groups)]


def _pad(group: list[Single], to_device: _Sender) -> Singles:
    lengths = np.asarray([len(slots) for _, slots, _ in group])
    padded = np.empty((len(group), int(lengths.max())), dtype=np.int64)
    for row, (_, slots, _) in enumerate(group):
        padded[row, : len(slots)] = slots
        padded[row, len(slots) :] = slots[-1]  # a masked NaN is still NaN: pad with what is its own
    return Singles(
        query=to_device(np.asarray([query for query, _, _ in group])),
        slots=to_device(padded),
        lengths=to_device(lengths),
        position=to_device(np.asarray([position for _, _, position in group])),
    )
