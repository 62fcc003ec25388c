"""Who has which shard: a frozen state, and what it is after each event.

A shard is in one place at a time: waiting for its worker, returned for anybody, begun by one
worker, done or given up. Every function here gives a new state; the old one stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from batchpipe.planner.shards.assign import Division
from batchpipe.planner.shards.cut import Shard
from batchpipe.planner.shards.work import Work

MOST_FAILURES = 3  # then a shard is given up: it, not the workers, is to blame


@dataclass(frozen=True, slots=True)
class Assignment:
    """A worker is to do this shard."""

    worker: int
    shard: Shard
    whole: Shard  # as it waits: `shard` is all of it, or the part that is taken
    owner: int | None  # in whose queue it waits; None: among those that were returned

    @property
    def is_stolen(self) -> bool:
        """True where it was another's, and that one is at work."""
        return self.owner is not None and self.owner != self.worker


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker has and how fast it has been. Shards stand in the order in which they go."""

    waiting: tuple[Shard, ...] = ()
    begun: tuple[Shard, ...] = ()
    last: tuple[int, int] | None = None  # the ranks that it began last: it has their prefix
    since_seconds: float = 0.0  # by the clock: when it began or ended something
    modelled_seconds: float = 0.0  # of all that it has done
    spent_seconds: float = 0.0  # by the clock, on all that it has done
    is_alive: bool = True

    @property
    def waiting_seconds(self) -> float:
        """Modelled, of the shards that wait."""
        return sum(shard.seconds for shard in self.waiting)


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """Where every shard is at ``now_seconds`` of a clock that begins with the run."""

    work: Work
    workers: tuple[WorkerState, ...]
    returned: tuple[Shard, ...] = ()  # by workers that died or failed
    done: tuple[Shard, ...] = ()
    given_up: tuple[Shard, ...] = ()
    now_seconds: float = 0.0

    @classmethod
    def of(cls, division: Division) -> Board:
        """Nothing has begun."""
        return cls(division.work, tuple(WorkerState(queue) for queue in division.queues))

    def at(self, now_seconds: float) -> Board:
        """The same, so late."""
        return replace(self, now_seconds=now_seconds)

    @property
    def is_over(self) -> bool:
        """True where every shard is done or given up."""
        return not self.returned and not any(w.waiting or w.begun for w in self.workers)

    def speed(self, worker: int) -> float:
        """Modelled seconds that the worker does in one by the clock, as far as is known.

        What it has begun may already take longer than it should at the speed of before.
        """
        begun, elapsed = self._begun_seconds(worker), self._elapsed_seconds(worker)
        usual = self._usual_speed(worker)
        return min(usual, begun / elapsed) if begun and elapsed else usual

    def remaining_work_seconds(self, worker: int) -> float:
        """Modelled, of all that the worker has and has not done, if it goes on as before."""
        done = self._elapsed_seconds(worker) * self._usual_speed(worker)
        waiting = sum(shard.seconds for shard in self.workers[worker].waiting)
        return max(0.0, self._begun_seconds(worker) - done) + waiting

    def remaining_seconds(self, worker: int) -> float:
        """By the clock, until the worker is done with all it has, if it goes on as before."""
        return self.remaining_work_seconds(worker) / self.speed(worker)

    def _begun_seconds(self, worker: int) -> float:
        return sum(shard.seconds for shard in self.workers[worker].begun)

    def _elapsed_seconds(self, worker: int) -> float:
        state = self.workers[worker]
        return max(0.0, self.now_seconds - state.since_seconds) if state.begun else 0.0

    def _usual_speed(self, worker: int) -> float:
        """Over all that it has done; of one that has done nothing, over what all have done."""
        known = (self.workers[worker],) if self.workers[worker].spent_seconds else self.workers
        spent = sum(state.spent_seconds for state in known)
        return sum(state.modelled_seconds for state in known) / spent if spent else 1.0

    def _with(self, worker: int, state: WorkerState) -> Board:
        workers = (*self.workers[:worker], state, *self.workers[worker + 1 :])
        return replace(self, workers=workers)


def begin(board: Board, taken: Assignment) -> Board:
    """The worker has begun the shard; what is left of one that was taken in part still waits."""
    rest = rest_of(board.work, taken)
    if taken.owner is None:
        board = replace(board, returned=_replaced(board.returned, taken.whole, rest))
    else:
        owner = board.workers[taken.owner]
        owner = replace(owner, waiting=_replaced(owner.waiting, taken.whole, rest))
        board = board._with(taken.owner, owner)
    state = board.workers[taken.worker]
    assert state.is_alive, f"worker {taken.worker} is dead"
    since = state.since_seconds if state.begun else board.now_seconds
    begun = replace(
        state, begun=(*state.begun, taken.shard), last=taken.shard.ranks, since_seconds=since
    )
    return board._with(taken.worker, begun)


def finished(board: Board, worker: int, shard: Shard) -> Board:
    """The worker has done the shard. Word of a shard that it no longer has changes nothing."""
    state = board.workers[worker]
    if shard not in state.begun:
        return board
    done = replace(
        state,
        begun=_replaced(state.begun, shard, ()),
        since_seconds=board.now_seconds,
        modelled_seconds=state.modelled_seconds + shard.seconds,
        spent_seconds=state.spent_seconds + board.now_seconds - state.since_seconds,
    )
    return replace(board._with(worker, done), done=(*board.done, shard))


def failed(board: Board, worker: int, shard: Shard) -> Board:
    """The shard failed and the worker lives: others may try, `MOST_FAILURES` times in all."""
    state = board.workers[worker]
    if shard not in state.begun:
        return board
    state = replace(state, begun=_replaced(state.begun, shard, ()), since_seconds=board.now_seconds)
    return _returned(board._with(worker, state), (shard,))


def died(board: Board, worker: int, blameless: Collection[Shard] = ()) -> Board:
    """The worker is no more: what it had begun has failed once more, what waited is anybody's.

    What it had begun and is ``blameless`` is anybody's too, and has not failed.
    """
    state = board.workers[worker]
    if not state.is_alive:
        return board
    gone = replace(state, waiting=(), begun=(), last=None, is_alive=False)
    blamed = tuple(shard for shard in state.begun if shard not in blameless)
    spared = tuple(replace(shard, failures=0) for shard in state.begun if shard in blameless)
    board = _returned(board._with(worker, gone), blamed)
    return replace(board, returned=board.returned + spared + state.waiting)


def joined(board: Board, worker: int) -> Board:
    """In the place of a dead worker there is a new one, with nothing to do yet.

    A number one above the last adds a worker.
    """
    assert worker <= len(board.workers), f"worker {worker} of {len(board.workers)}"
    if worker < len(board.workers) and board.workers[worker].is_alive:
        return board
    return board._with(worker, WorkerState(since_seconds=board.now_seconds))


def rest_of(work: Work, taken: Assignment) -> tuple[Shard, ...]:
    """What of the shard as it waited is not taken: nothing, or the ranks before and behind."""
    whole, shard = taken.whole, taken.shard
    ends = ((whole.first, shard.first), (shard.last, whole.last))
    return tuple(part_of(work, whole, *each) for each in ends if each[0] < each[1])


def part_of(work: Work, shard: Shard, first: int, last: int) -> Shard:
    """These ranks of the shard, as a shard."""
    return replace(shard, first=first, last=last, seconds=work.seconds.of(first, last))


def _returned(board: Board, shards: tuple[Shard, ...]) -> Board:
    again = [replace(shard, failures=shard.failures + 1) for shard in shards]
    return replace(
        board,
        returned=board.returned + tuple(s for s in again if s.failures < MOST_FAILURES),
        given_up=board.given_up + tuple(s for s in again if s.failures >= MOST_FAILURES),
    )


def _replaced(
    shards: tuple[Shard, ...], shard: Shard, rest: tuple[Shard, ...]
) -> tuple[Shard, ...]:
    place = shards.index(shard)
    return shards[:place] + rest + shards[place + 1 :]
