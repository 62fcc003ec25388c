"""A run on several workers, played on a clock: what a division and stealing come to."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchpipe.planner.shards.assign import Division
from batchpipe.planner.shards.board import Board, begin, died, finished
from batchpipe.planner.shards.cut import Shard
from batchpipe.planner.shards.steal import next_shard
from batchpipe.planner.shards.work import Work


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a division. Seconds are those of the workers' clocks."""

    makespan_seconds: float
    busy_seconds: tuple[float, ...]  # [workers]
    shards: int  # that were begun
    stolen_shards: int
    stolen_seconds: float  # modelled
    duplicated_tokens: int  # prompt tokens computed more than once, lost work of the dead included
    given_up: int  # shards
    board: Board  # as it is in the end

    @property
    def idle_share(self) -> float:
        """Of all workers' time up to the makespan."""
        total = self.makespan_seconds * len(self.busy_seconds)
        return 1 - sum(self.busy_seconds) / total if total else 0.0


def simulate(
    division: Division,
    actual: Work | None = None,
    speeds: Sequence[float] | None = None,
    deaths: Iterable[tuple[float, int]] = (),
) -> Run:
    """The division played to its end; a worker without work asks again at every event.

    Args:
        division: as planned, by expected answers
        actual: the same prompts with the answers as they turn out; the expected ones unless given
        speeds: modelled seconds that each worker does in one; 1 unless given  # [workers]
        deaths: when a worker dies, in seconds, and which
    """
    clock = _Clock(division, actual or division.work, speeds)
    for seconds, worker in deaths:
        heapq.heappush(clock.events, (seconds, worker, None))
    clock.let_begin()
    while clock.events and not clock.board.is_over:
        clock.pass_event()
        clock.let_begin()
    return clock.run()


class _Clock:
    """The board as time passes."""

    def __init__(self, division: Division, actual: Work, speeds: Sequence[float] | None) -> None:
        workers = len(division.queues)
        self.board = Board.of(division)
        self.events: list[tuple[float, int, Shard | None]] = []  # None: the worker dies
        self._actual = actual
        self._speeds = speeds or (1.0,) * workers
        self._busy = [0.0] * workers
        self._began = [0.0] * workers
        self._shards = self._stolen = self._tokens = 0
        self._stolen_seconds = self._end = 0.0

    def pass_event(self) -> None:
        """The next shard is done, or the next worker dead."""
        now, worker, shard = heapq.heappop(self.events)
        board = self.board.at(now)
        self.board = died(board, worker) if shard is None else finished(board, worker, shard)
        if board.workers[worker].begun and self.board is not board:
            self._busy[worker] += now - self._began[worker]
            self._end = now if shard is not None else self._end

    def let_begin(self) -> None:
        """Every worker without work has begun what the rule gives it."""
        for worker, state in enumerate(self.board.workers):
            if not state.begun and (taken := next_shard(self.board, worker)) is not None:
                self._pass_begin(worker, taken.shard, state.last)
                self._stolen += taken.is_stolen
                self._stolen_seconds += taken.shard.seconds * taken.is_stolen
                self.board = begin(self.board, taken)

    def _pass_begin(self, worker: int, shard: Shard, last: tuple[int, int] | None) -> None:
        """It ends later by what the shard adds to what the worker began before it."""
        work, ranks = self._actual, shard.ranks
        seconds, tokens = work.seconds.of(*ranks), int(work.tokens.of(*ranks))
        if last is not None and last != ranks:
            seconds -= work.common_seconds(last, ranks)
            tokens -= work.common_tokens(last, ranks)
        self._shards += 1
        self._tokens += tokens
        self._began[worker] = self.board.now_seconds
        ends = self.board.now_seconds + seconds / self._speeds[worker]
        heapq.heappush(self.events, (ends, worker, shard))

    def run(self) -> Run:
        """What the clock has seen."""
        return Run(
            makespan_seconds=self._end,
            busy_seconds=tuple(self._busy),
            shards=self._shards,
            stolen_shards=self._stolen,
            stolen_seconds=self._stolen_seconds,
            duplicated_tokens=self._tokens - self._actual.tree.computed_tokens,
            given_up=len(self.board.given_up),
            board=self.board,
        )
