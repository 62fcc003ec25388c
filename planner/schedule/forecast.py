"""How much KV will the running set need at its worst moment? Knows counts, never a block's number.

Past-Future (LightLLM) with prefix sharing and pages. With the sequences sorted by their expected
ends, ``e_1 >= e_2 >= ...``, and b tokens a block, the peak is

    M* = max_k [ sum_{i<=k} ceil((s_i + l_k) / b) + sum_{p in U_k} blocks(p) ]

Term k is the instant at which sequence k ends: the k longest-lived are alive, each has grown from
the ``s_i`` tokens of its own tail by ``l_k``, and ``U_k`` are the distinct shared nodes they read.
Between two ends everything only grows, so no other instant can be the peak.

A sequence that holds h tokens at clock t and ends at e holds ``(h - t) + e_k`` at instant ``e_k``,
whenever one asks. So term k stays right while time passes, and a sequence that comes or goes
changes only the terms of ends up to its own: one pass instead of a sort and n sums.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for

Counts = npt.NDArray[np.int64]
NodePath = Sequence[tuple[int, int]]  # (node, its blocks), root first

_ROWS = 5  # of the table: key, end, origin, own blocks, shared blocks
_FIRST_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class _Running:
    end: int
    origin: int  # tokens held at clock 0, were it alive then: often negative
    path: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class _Node:
    blocks: int
    # Ends of the sequences that read the node, ascending, so the last is its own. A root has
    # thousands; moving them in a list is cheaper than a heap that also keeps those that left.
    ends: list[int] = field(default_factory=list)
    pinned: bool = False


class Forecast:
    """The peak of KV blocks over the running sequences' expected futures, kept as they change.

    Time is a step clock: a running sequence holds a token more at each step and is alive up to and
    including the instant of its end. A shared node is counted up to the latest end of those that
    read it; after that it is idle and its KV can be had back.

    The clock of a call is never before that of an earlier one. A sequence whose end passed is in
    no later term, though it holds its KV: before asking for a peak the caller removes what is
    `overdue`, and adds it again with a later end where it goes on. Then the peak is that over all
    instants from the clock on. An end equal to the clock is still counted, at that instant.

    A node that is pinned, because sequences still to come will read it, counts at every instant.
    """

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}
        self._nodes: dict[int, _Node] = {}  # those that running sequences read
        # A column for each sequence, by ascending end, equal ends by arrival. Own and shared are
        # the blocks of all sequences and all nodes alive at the instant of the column's end.
        self._table: Counts = np.zeros((_ROWS, _FIRST_COLUMNS), dtype=np.int64)
        self._pinned = 0  # blocks of pinned nodes, which no term of the table counts
        self._bound = 0  # blocks of each sequence at its own end, and of all nodes read

    def __len__(self) -> int:
        return len(self._running)

    def add(self, key: int, held_tokens: int, end: int, clock: int, path: NodePath) -> None:
        """One sequence more runs, under a key that no other has.

        Args:
            key: the caller's name of the sequence.
            held_tokens: tokens of its own tail now, shared nodes not counted.
            end: instant at which it will hold its last expected token, later than the clock.
            clock: now.
            path: (node, its blocks) of the shared nodes it reads, root first.
        """
        assert key not in self._running, f"sequence {key} runs already"
        self._bound = self.bound_with(held_tokens, end, clock, path)
        origin = held_tokens - clock
        own, shared = self._blocks_at(end)
        place = int(self._columns()[1].searchsorted(end, "right"))
        self._insert(place, (key, end, origin, own, shared))
        self._running[key] = _Running(end, origin, tuple(path))
        _, ends, _, own_blocks, _ = self._columns()
        own_blocks[: place + 1] += _blocks_each(ends[: place + 1], origin)
        for node, blocks in path:
            held = self._nodes.setdefault(node, _Node(blocks))
            if not held.pinned:
                self._count_shared(held.ends[-1] if held.ends else None, end, blocks)
            insort(held.ends, end)

    def remove(self, key: int) -> None:
        """The sequence is gone, answered or preempted; nodes that it alone read are idle."""
        gone = self._running[key]
        for node, blocks in gone.path:
            held = self._nodes[node]
            del held.ends[bisect_left(held.ends, gone.end)]
            if not held.pinned:
                self._count_shared(held.ends[-1] if held.ends else None, gone.end, -blocks)
            if not held.ends:
                self._pinned -= blocks if held.pinned else 0
                del self._nodes[node]
                self._bound -= blocks
        self._bound -= blocks_for(gone.origin + gone.end)
        keys, ends, _, own_blocks, _ = self._columns()
        first, last = ends.searchsorted(gone.end), ends.searchsorted(gone.end, "right")
        own_blocks[:last] -= _blocks_each(ends[:last], gone.origin)
        place = int(first + (keys[first:last] == key).argmax())
        self._table[:, place : len(self) - 1] = self._table[:, place + 1 : len(self)]
        del self._running[key]

    def pin(self, node: int, pinned: bool) -> None:
        """A node that running sequences read is kept for others after them, or no longer so."""
        held = self._nodes.get(node)
        if held is None or held.pinned == pinned:
            return
        held.pinned = pinned
        blocks = held.blocks if pinned else -held.blocks
        self._pinned += blocks
        self._count_shared(None, held.ends[-1], -blocks)

    def peak(self) -> int:
        """The most blocks that the running sequences will hold together."""
        _, _, _, own_blocks, shared_blocks = self._columns()
        return self._pinned + int((own_blocks + shared_blocks).max(initial=0))

    def peak_with(self, held_tokens: int, end: int, clock: int, path: NodePath) -> int:
        """The peak if this sequence were added; nothing changes."""
        assert end > clock, f"a sequence cannot end at {end} when it is {clock}"
        _, ends, _, own_blocks, shared_blocks = self._columns()
        assert not len(ends) or ends[0] >= clock, f"end {ends[0]} is overdue at {clock}"
        origin = held_tokens - clock
        last = int(ends.searchsorted(end, "right"))
        blocks_at_ends = own_blocks + shared_blocks
        blocks_at_ends[:last] += _blocks_each(ends[:last], origin)
        at_own_end = blocks_for(origin + end) + sum(self._blocks_at(end))
        for node, blocks in path:
            held = self._nodes.get(node)
            if held is None:
                blocks_at_ends[:last] += blocks
                at_own_end += blocks
            elif not held.pinned and held.ends[-1] < end:
                blocks_at_ends[ends.searchsorted(held.ends[-1], "right") : last] += blocks
                at_own_end += blocks
        return self._pinned + int(blocks_at_ends.max(initial=at_own_end))

    def bound_with(self, held_tokens: int, end: int, clock: int, path: NodePath) -> int:
        """At least `peak_with`, without looking at any other sequence.

        The blocks as if all stood at their ends together: where even that fits, so does the peak.
        """
        assert end > clock, f"a sequence cannot end at {end} when it is {clock}"
        bound = self._bound + blocks_for(held_tokens + end - clock)
        for node, blocks in path:
            held = self._nodes.get(node)
            if held is None:
                bound += blocks
            else:
                assert held.blocks == blocks, f"node {node}: {held.blocks} blocks, now {blocks}"
        return bound

    def overdue(self, clock: int) -> list[int]:
        """The sequences that reached their end and are still here, by end."""
        keys, ends, _, _, _ = self._columns()
        overdue: list[int] = keys[: ends.searchsorted(clock, "right")].tolist()
        return overdue

    def _columns(self) -> Counts:  # [5, sequences]
        """The filled part of the table, to unpack into its rows."""
        return self._table[:, : len(self._running)]

    def _insert(self, place: int, column: tuple[int, ...]) -> None:
        """The column stands at this place, those from there on one further right."""
        count = len(self)
        if count == self._table.shape[1]:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
        self._table[:, place + 1 : count + 1] = self._table[:, place:count]
        self._table[:, place] = column

    def _blocks_at(self, instant: int) -> tuple[int, int]:
        """Own and shared blocks alive at an instant, which need not be an end."""
        _, ends, origins, _, shared_blocks = self._columns()
        first = int(ends.searchsorted(instant))
        if first == len(ends):
            return 0, 0
        # A node ends with one of its readers, so the nodes alive now are those of the next end.
        return int(_blocks_each(origins[first:], instant).sum()), int(shared_blocks[first])

    def _count_shared(self, after: int | None, until: int, blocks: int) -> None:
        """A node's blocks are added at the ends in ``(after, until]``; at none where that is empty.

        Without ``after``, at all ends up to ``until``.
        """
        if after is not None and after >= until:
            return
        _, ends, _, _, shared_blocks = self._columns()
        first = 0 if after is None else int(ends.searchsorted(after, "right"))
        shared_blocks[first : ends.searchsorted(until, "right")] += blocks


def _blocks_each(tokens: Counts, more: int) -> Counts:
    """`blocks_for` of each count and ``more``."""
    blocks: Counts = (tokens + (more + BLOCK_TOKENS - 1)) // BLOCK_TOKENS
    return blocks
