"""What each query of a step reads: its own part, and parts that it shares with its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.schedule.segment import Chunk, Segment

Integers = npt.NDArray[np.int64]

Single = tuple[int, Integers, int]  # query, slots, position of the first
Shared = tuple[int, int, Integers, int]  # query_start, query_end, slots, position of the first

# A read of its own costs some 0.1 ms a layer in launches and merging; below so many key reads
# (rows times keys) it is cheaper to gather the keys again for each row (2 cores, float32).
SHARED_READ_MIN_KEYS = 256


@dataclass(frozen=True, slots=True)
class StepReads:
    """What the queries of a step read: the parts of a `Layout`, still on the host."""

    squares: list[tuple[int, int]]
    singles: list[Single]
    shared: list[Shared]

    def only(self, queries: Integers, positions: Integers, write_slots: Integers) -> StepReads:
        """What these queries read, ascending, renumbered from 0; nobody else of their chunks."""
        places = {query: place for place, query in enumerate(queries.tolist())}
        singles = [
            (places[query], slots, first) for query, slots, first in self.singles if query in places
        ]
        for start, end in self.squares:
            among = range(*np.searchsorted(queries, (start, end)).tolist())
            singles += [
                (place, write_slots[start : queries[place] + 1], int(positions[start]))
                for place in among
            ]
        shared = []
        for start, end, slots, first in self.shared:
            among = range(*np.searchsorted(queries, (start, end)).tolist())
            if among:
                shared.append((among.start, among.stop, slots, first))
        return StepReads([], singles, shared)


def divide(chunks: Sequence[Chunk], starts: list[int]) -> StepReads:
    """Split what every chunk reads into its own part and parts shared by a range of queries."""
    below = _queries_below(chunks, starts)
    squares: list[tuple[int, int]] = []
    singles: list[Single] = []
    shared: list[Shared] = []
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
    return StepReads(squares, singles, shared)


@dataclass(slots=True)
class _Below:
    """This step's queries below one shared segment: a range, since chunks lie in tree order."""

    query_start: int
    query_end: int
    rows: int
    carried: tuple[Segment, ...] = ()  # segments up to here that have no read of their own
    visited: bool = False


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
