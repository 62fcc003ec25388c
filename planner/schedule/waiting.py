"""Who is admitted next: preempted sequences first, then the plan's prompts in their order.

An order is read from its front, or from both ends at once: BlendServe's dual scanner (Algorithm 3)
takes compute-bound prompts from the front and memory-bound ones from the back.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from batchpipe.planner.order import Order
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.segment import Segment, Sequence


class Waiting:
    """The sequences that do not run yet, or not now.

    The prompts still to come are ``places[front:back]`` of the order. What is only expected to be
    the beginning of prompts that nobody knows yet is never admitted.
    """

    def __init__(self, plan: Plan, expected: frozenset[int] = frozenset()) -> None:
        self._plan = plan
        self._expected = expected
        self._preempted: deque[Sequence] = deque()
        self._place_of_rank = np.empty(len(plan.tree.order), dtype=np.int32)
        self.reorder(plan.order)

    def reorder(self, order: Order) -> None:
        """What still waits comes in this order from now on; ``order`` holds nothing else."""
        self.order = order
        self.front, self.back = 0, len(order.prompts)
        self._peeked: dict[bool, Sequence] = {}  # by left
        self._place_of_rank.fill(-1)
        self._place_of_rank[self._plan.rank_of[order.prompts]] = np.arange(self.back)

    def still_expect(self, numbers: frozenset[int]) -> None:
        """Of what is expected to be a beginning, no more than these is."""
        self._expected &= numbers

    def __len__(self) -> int:
        return len(self._preempted) + self.back - self.front

    @property
    def coming(self) -> npt.NDArray[np.int32]:
        """The prompts that were not admitted yet, in order."""
        return self.order.prompts[self.front : self.back]

    def left(self) -> Sequence | None:
        """The first in line: a preempted sequence, or the prompt at the front."""
        if self._preempted:
            return self._preempted[0]
        return self._at(self.front, left=True) if self.front < self.back else None

    def right(self) -> Sequence | None:
        """The prompt at the back, where the order is read from both ends."""
        if self._preempted or not self.order.from_both_ends or self.front >= self.back:
            return None
        return self._at(self.back - 1, left=False)

    def densities(self) -> tuple[float, float]:
        """Of the prompts at the front and at the back."""
        density = self.order.density
        if density is None or self.front >= self.back:
            return 0.0, 0.0
        return float(density[self.front]), float(density[self.back - 1])

    def take(self, sequence: Sequence) -> None:
        """The sequence, first in line at its end, leaves it."""
        if self._preempted:
            self._preempted.popleft()
        elif sequence.left:
            self.front += 1
        else:
            self.back -= 1
        self._peeked.pop(sequence.left, None)

    def put_back(self, sequence: Sequence) -> None:
        """A preempted sequence is first in line again."""
        self._preempted.appendleft(sequence)

    @property
    def preempted(self) -> list[Sequence]:
        """Those that ran before, first in line first."""
        return list(self._preempted)

    def someone_below(self, node: int) -> int | None:
        """A prompt below the node that has yet to run; None where there is none."""
        first, last = int(self._plan.tree.first[node]), int(self._plan.tree.last[node])
        for sequence in self._preempted:
            if first <= sequence.tail.rank < last:
                return sequence.index
        places = self._place_of_rank[first:last]
        coming = places[(places >= self.front) & (places < self.back)]
        if len(coming):
            return int(self.order.prompts[coming[0]])
        ranks = self._plan.rank_of
        return next((each for each in self._expected if first <= ranks[each] < last), None)

    def next_use(self, node: int) -> int:
        """When a prompt below the node comes up: smaller is sooner, negative for preempted ones."""
        first, last = int(self._plan.tree.first[node]), int(self._plan.tree.last[node])
        for place, sequence in enumerate(self._preempted, start=-len(self._preempted)):
            if first <= sequence.tail.rank < last:
                return place
        places = self._place_of_rank[first:last]
        coming = places[(places >= self.front) & (places < self.back)]
        if not len(coming):
            return len(self._plan.prompts)
        soonest = int(coming.min()) - self.front
        if self.order.from_both_ends:
            soonest = min(soonest, self.back - 1 - int(coming.max()))
        return soonest

    def _at(self, place: int, *, left: bool) -> Sequence:
        found = self._peeked.get(left)
        index = int(self.order.prompts[place])
        if found is None or found.index != index:
            rank = int(self._plan.rank_of[index])
            start = int(self._plan.tree.tail_start[rank])
            prompt = self._plan.prompts[index]
            # Where nothing is drawn behind it, nothing reads what the last token computes.
            silent = not self._plan.samplings[index].max_tokens
            tail = Segment(-1, start, rank, prompt[start : len(prompt) - silent])
            path_blocks = self._plan.path_blocks(index)
            found = Sequence(index, len(prompt) - silent, tail, path_blocks, left=left)
            self._peeked[left] = found
        return found
