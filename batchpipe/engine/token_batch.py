"""From the planner's chunks to tensors: what one forward pass computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchpipe.kernels.layout import Layout, SharedRead, Singles
from batchpipe.kernels.reference import Read
from batchpipe.planner.schedule.segment import Chunk, Segment
from batchpipe.planner.schedule.segment import Sequence as Running

Integers = npt.NDArray[np.int64]

# A read of its own costs some 0.1 ms a layer in launches and merging; below so many key reads
# (rows times keys) it is cheaper to gather the keys again for each row (2 cores, float32).
SHARED_READ_MIN_KEYS = 256
SHORTEST_SINGLES = 64  # singles of up to so many keys are padded together, then each doubling


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """One step's tokens, packed without padding; prefill and decode look the same."""

    input_ids: Tensor  # int64  # [tokens]
    layout: Layout
    sampled: Tensor  # int64, the tokens behind which one is drawn  # [draws]
    sequences: tuple[Running, ...]  # who draws; with a draft several times  # [draws]


@dataclass(slots=True)
class _Below:
    """This step's queries below one shared segment: a range, since chunks lie in tree order."""

    query_start: int
    query_end: int
    rows: int
    carried: tuple[Segment, ...] = ()  # segments up to here that have no read of their own
    visited: bool = False


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
    squares, singles, shared = _reads(chunks, starts, positions)
    to_device = _Sender(device)
    layout = Layout(
        positions=to_device(positions),
        write_slots=to_device(write_slots),
        squares=tuple(squares),
        singles=tuple(_pad(group, to_device) for group in _by_length(singles)),
        shared=tuple(
            SharedRead(
                Read(start, end, to_device(slots), position),
                _as_slice(slots),
                int(positions[start:end].min()),
                int(positions[start:end].max()),
            )
            for start, end, slots, position in shared
        ),
    )
    return TokenBatch(
        input_ids=to_device(input_ids),
        layout=layout,
        sampled=to_device(np.asarray(sampled)),
        sequences=sequences,
    )


def _draws(
    chunks: Sequence[Chunk], starts: list[int]
) -> tuple[list[int], tuple[Running, ...]]:  # [draws]
    """The tokens behind which one is drawn, and by whom."""
    sampled: list[int] = []
    sequences: list[Running] = []
    for row, chunk in enumerate(chunks):
        if chunk.sequence is None:
            continue
        count = len(chunk.drawing)
        sampled.extend(range(starts[row + 1] - count, starts[row + 1]))
        sequences.extend([chunk.sequence] * count)
    return sampled, tuple(sequences)


class _Sender:
    """Copies host integers to the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, numbers: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(numbers.astype(np.int64, copy=False)).to(
            self.device, non_blocking=True
        )


_Single = tuple[int, Integers, int]  # query, slots, position of the first
_Shared = tuple[int, int, Integers, int]  # query_start, query_end, slots, position of the first


def _reads(
    chunks: Sequence[Chunk], starts: list[int], positions: Integers
) -> tuple[list[tuple[int, int]], list[_Single], list[_Shared]]:
    """Split what every chunk reads into its own part and parts shared by a range of queries."""
    below = _queries_below(chunks, starts)
    squares: list[tuple[int, int]] = []
    singles: list[_Single] = []
    shared: list[_Shared] = []
    for row, chunk in enumerate(chunks):
        carried: tuple[Segment, ...] = ()
        for segment in _ancestors(chunk.segment):
            queries = below[id(segment)]
            if not queries.visited:
                queries.visited = True
                queries.carried = (*carried, segment)
                keys = sum(s.length for s in queries.carried)
                if queries.rows * keys >= SHARED_READ_MIN_KEYS:
                    slots = np.concatenate([_written(s) for s in queries.carried])
                    first = queries.carried[0].position
                    shared.append((queries.query_start, queries.query_end, slots, first))
                    queries.carried = ()
            carried = queries.carried
        start, end = starts[row], starts[row + 1]
        own = chunk.segment.slots
        past = [_written(s) for s in carried]
        first = carried[0].position if carried else chunk.segment.position
        if end - start > 1:
            squares.append((start, end))
            slots = np.concatenate([*past, own[: chunk.start]])
            if len(slots):
                shared.append((start, end, slots, first))
        else:
            singles.append((start, np.concatenate([*past, own[: chunk.end]]), first))
    return squares, singles, shared


def _queries_below(chunks: Sequence[Chunk], starts: list[int]) -> dict[int, _Below]:
    below: dict[int, _Below] = {}
    for row, chunk in enumerate(chunks):
        for segment in _ancestors(chunk.segment):
            queries = below.get(id(segment))
            if queries is None:
                below[id(segment)] = _Below(starts[row], starts[row + 1], 1)
            else:
                assert queries.query_end == starts[row], "a subtree's queries must lie side by side"
                queries.query_end = starts[row + 1]
                queries.rows += 1
    return below


def _ancestors(segment: Segment) -> Iterator[Segment]:
    """The segments above, root first."""
    chain = []
    above = segment.parent
    while above is not None:
        chain.append(above)
        above = above.parent
    return reversed(chain)


def _written(segment: Segment) -> Integers:
    """Slots of a shared segment's tokens, all of which are computed by the end of this step."""
    return segment.slots[: segment.length]


def _as_slice(slots: Integers) -> slice | None:
    first, count = int(slots[0]), len(slots)
    if int(slots[-1]) - first == count - 1 and bool((np.diff(slots) == 1).all()):
        return slice(first, first + count)
    return None


def _by_length(singles: list[_Single]) -> list[list[_Single]]:
    """Groups in which padding at most doubles a row."""
    groups: dict[int, list[_Single]] = {}
    for single in singles:
        doublings = max(0, (len(single[1]) - 1) // SHORTEST_SINGLES).bit_length()
        groups.setdefault(doublings, []).append(single)
    return [groups[doublings] for doublings in sorted(groups)]


def _pad(group: list[_Single], to_device: _Sender) -> Singles:
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
