"""Who may run beside those who run: the forecast of the peak KV decides, never a count."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.forecast import Forecast
from batchpipe.planner.schedule.live_tree import LiveTree
from batchpipe.planner.schedule.pace import Pace
from batchpipe.planner.schedule.partition import Partition
from batchpipe.planner.schedule.segment import Segment, Sequence
from batchpipe.planner.schedule.waiting import Waiting

RETRY_STEPS = BLOCK_TOKENS  # who did not fit is asked again when one leaves, or after so many steps


class Admission:
    """Admits while the forecast ``M*`` of the running set fits the KV memory.

    Args:
        kv_blocks: all blocks there are
        remaining: tokens still expected of a sequence's answer
    """

    def __init__(
        self,
        waiting: Waiting,
        tree: LiveTree,
        decoding: Decoding,
        pace: Pace,
        kv_blocks: int,
        remaining: Callable[[Sequence], int],
    ) -> None:
        self._waiting = waiting
        self._tree = tree
        self._decoding = decoding
        self._pace = pace
        self._kv_blocks = kv_blocks
        self._remaining = remaining
        self._forecast = Forecast()
        self._partition = Partition(kv_blocks, waiting.order.waves)
        self._running: dict[int, Sequence] = {}
        self._retry_at = 0

    def next(self) -> Sequence | None:
        """The sequence to admit now, counted from here on; None where none fits or waits."""
        clock = self._decoding.clock
        if clock < self._retry_at:
            return None
        for candidate, limit in self._candidates():
            if not self._running or self._fits(candidate, limit):
                candidate.end_blocks = self._end_blocks(candidate)
                self._running[candidate.index] = candidate
                self._expect(candidate)
                self._partition.admitted(candidate, clock)
                return candidate
        self._retry_at = clock + RETRY_STEPS
        return None

    def goes_on(self, sequence: Sequence) -> None:
        """The sequence runs already: it was admitted before the plan grew."""
        self._running[sequence.index] = sequence
        self._expect(sequence)
        self._partition.admitted(sequence, self._decoding.clock)

    def moved(self, path: tuple[Segment, ...]) -> None:
        """The users of these segments changed, and so may how long their KV is kept."""
        for segment in path:
            self._forecast.pin(segment.node, self._tree.kept_for_more(segment))

    def left(self, sequence: Sequence) -> None:
        """The sequence runs no more."""
        self._forecast.remove(sequence.index)
        del self._running[sequence.index]
        self._partition.ended(sequence)
        self._retry_at = 0

    def reordered(self, pace: Pace) -> None:
        """Others are first in line than before; all that run count as from the front."""
        self._pace = pace
        self._partition = Partition(self._kv_blocks, self._waiting.order.waves)
        for sequence in self._running.values():
            sequence.left = True
            self._partition.admitted(sequence, self._decoding.clock)
        self._retry_at = 0

    @property
    def settled_until(self) -> int:
        """The step up to which nobody is admitted unless a sequence leaves."""
        return self._retry_at

    def _candidates(self) -> Iterator[tuple[Sequence, int]]:
        """Who is first in line at each end, and the blocks that all may have with it."""
        density, right = self._pace.density(), self._waiting.right()
        if right is not None and density is not None:
            limit = self._partition.limit(
                self._decoding.clock,
                self._remaining(right),
                self._end_blocks(right),
                density,
                self._waiting.densities(),
            )
            if limit:
                yield right, limit
        left = self._waiting.left()
        if left is not None:
            yield left, self._kv_blocks

    def _fits(self, candidate: Sequence, limit: int) -> bool:
        """True where the running set and the candidate stay within the blocks to their ends."""
        clock, path = self._decoding.clock, candidate.path_blocks
        for index in self._forecast.overdue(clock):
            self._forecast.remove(index)
            self._expect(self._running[index])
        limit -= self._tree.newly_kept_blocks(path)
        asked = (candidate.tail.length, clock + self._remaining(candidate), clock, path)
        if self._forecast.bound_with(*asked) <= limit:
            return True
        return self._forecast.peak_with(*asked) <= limit

    def _expect(self, sequence: Sequence) -> None:
        clock = self._decoding.clock
        end = clock + self._remaining(sequence)
        held = self._decoding.length(sequence)
        self._forecast.add(sequence.index, held, end, clock, sequence.path_blocks)
        self.moved(sequence.path)

    def _end_blocks(self, sequence: Sequence) -> int:
        return blocks_for(sequence.tail.length + self._remaining(sequence))
