"""Who is admitted next: preempted sequences first, then the plan's prompts in their order."""

from __future__ import annotations

from collections import deque

import numpy as np

from batchpipe.planner.plan import Plan
from batchpipe.planner.segment import Segment, Sequence


class Waiting:
    """The sequences that do not run yet, or not now."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._next = 0  # place in plan.order
        self._preempted: deque[Sequence] = deque()
        self._place_of_rank = np.empty(len(plan.prompts), dtype=np.int32)
        self._place_of_rank[plan.rank_of[plan.order]] = np.arange(len(plan.prompts))

    def peek(self) -> Sequence | None:
        """The first in line, who stays there."""
        if self._preempted:
            return self._preempted[0]
        if self._next == len(self._plan.order):
            return None
        index = int(self._plan.order[self._next])
        rank = int(self._plan.rank_of[index])
        start = int(self._plan.tree.tail_start[rank])
        tail = Segment(-1, start, rank, self._plan.prompts[index][start:].tolist())
        return Sequence(index, len(self._plan.prompts[index]), tail)

    def advance(self) -> None:
        """The first in line leaves it."""
        if self._preempted:
            self._preempted.popleft()
        else:
            self._next += 1

    def put_back(self, sequence: Sequence) -> None:
        """A preempted sequence is first in line again."""
        self._preempted.appendleft(sequence)

    def next_use(self, node: int) -> int:
        """When a prompt below the node comes up: smaller is sooner, negative for preempted ones."""
        first, last = int(self._plan.tree.first[node]), int(self._plan.tree.last[node])
        for place, sequence in enumerate(self._preempted, start=-len(self._preempted)):
            if first <= sequence.tail.rank < last:
                return place
        places = self._place_of_rank[first:last]
        coming = places[places >= self._next]
        return int(coming.min()) if len(coming) else len(self._plan.order)
