"""Which shard a worker does next: its own, one that was returned, or one that is stolen.

One rule for the simulator and for the runner: a pure function of the `Board`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from batchpipe.planner.shards.board import Assignment, Board, part_of
from batchpipe.planner.shards.cut import Shard

# Of a worker's equal part of the job:
LEAST_SHARE = 1 / 64  # no shard is begun in parts below it
LEAST_GAIN = 1 / 32  # no theft is worth less


@dataclass(frozen=True, slots=True)
class _Offer:
    """A shard or its end, as one worker might take it from another."""

    owner: int
    whole: Shard
    first: int  # of the ranks that would be taken, up to the whole's last
    gain_seconds: float  # by which both are done sooner
    prefix_seconds: float  # that the thief computes and somebody else does too


def next_shard(board: Board, worker: int) -> Assignment | None:
    """What the worker is to begin now; None where it had better do nothing.

    Its own first, then what others gave back, then the best theft: of shards that name it as
    second, else of any, and only where that ends the work of both sooner, by more than the prefix
    that it computes again.
    """
    state = board.workers[worker]
    if not state.is_alive:
        return None
    taken = _own(board, worker) or _returned(board, worker) or _stolen(board, worker)
    if taken is None:
        return None
    return replace(taken, shard=_beginning(board, taken))


def _own(board: Board, worker: int) -> Assignment | None:
    waiting = board.workers[worker].waiting
    return Assignment(worker, waiting[0], waiting[0], worker) if waiting else None


def _returned(board: Board, worker: int) -> Assignment | None:
    if not board.returned:
        return None
    shard = max(board.returned, key=lambda each: (each.second == worker, each.seconds))
    return Assignment(worker, shard, shard, None)


def _stolen(board: Board, worker: int) -> Assignment | None:
    least = LEAST_GAIN * _part_seconds(board)
    offers = [
        offer
        for offer in _offers(board, worker)
        if offer.gain_seconds > max(least, offer.prefix_seconds)
    ]
    if not offers:
        return None
    best = max(offers, key=lambda each: (each.whole.second == worker, each.gain_seconds))
    shard = best.whole
    if best.first > shard.first:
        shard = part_of(board.work, shard, best.first, shard.last)
    return Assignment(worker, shard, best.whole, best.owner)


def _beginning(board: Board, taken: Assignment) -> Shard:
    """As much of the shard as the worker does in half of the time that all need for all.

    What it has not begun others can take, and if it goes on with it itself, that costs nothing, as
    it has the prefix. (Guided self-scheduling: Polychronopoulos and Kuck, 1987.)
    """
    work, shard = board.work, taken.shard
    alive = [number for number, state in enumerate(board.workers) if state.is_alive]
    if len(alive) == 1:
        return shard
    left = sum(map(board.remaining_work_seconds, range(len(board.workers))))
    left += sum(each.seconds for each in board.returned)
    speeds = {worker: board.speed(worker) for worker in alive}
    most = left / sum(speeds.values()) / 2 * speeds[taken.worker]
    most = max(most, LEAST_SHARE * _part_seconds(board))
    if shard.seconds <= most or shard.last - shard.first == 1:
        return shard
    sums = work.seconds
    borders = np.arange(shard.first + 1, shard.last)
    added = sums.alone[borders] + sums.begun[borders] - sums.alone[shard.first]
    share = (added - sums.begun[shard.first]) / most
    near = np.flatnonzero((share > 2 / 3) & (share < 4 / 3))
    if not len(near):  # few prompts, and heavy ones
        near = np.array([max(0, int(np.searchsorted(share, 1, "right")) - 1)])
    cheapest = np.lexsort((abs(share[near] - 1), work.crossing_tokens[borders[near]]))[0]
    return part_of(work, shard, shard.first, int(borders[near][cheapest]))


def _part_seconds(board: Board) -> float:
    """An equal part of the job for each worker that lives."""
    return board.work.total_seconds / sum(state.is_alive for state in board.workers)


def _offers(board: Board, worker: int) -> Iterator[_Offer]:
    """Every waiting shard of every other worker, whole or cut where both would end together."""
    for owner, state in enumerate(board.workers):
        if owner == worker or not state.waiting:
            continue
        left = board.remaining_seconds(owner)
        for shard in state.waiting:
            yield _best_offer(board, worker, owner, shard, left)


def _best_offer(board: Board, worker: int, owner: int, shard: Shard, left: float) -> _Offer:
    """The shard from the border on from which both are done soonest.

    A theft that leaves the thief the later of the two looks at each border inside the shard: its
    end would go to the thief, its beginning stay.
    """
    work, speed, owner_speed = board.work, board.speed(worker), board.speed(owner)
    held = board.workers[worker].last
    has = work.common_seconds(held, shard.ranks) if held is not None else 0.0

    first = np.array([shard.first])
    if (shard.seconds - has) / speed > left - shard.seconds / owner_speed:
        first = np.arange(shard.first, shard.last)
    sums = work.seconds
    seconds = sums.alone[shard.last] - sums.alone[first] + sums.begun[shard.last]
    seconds = seconds - sums.ended[first] - has
    above = np.maximum(work.crossing_seconds[first], work.crossing_seconds[shard.last])
    prefix = np.maximum(0.0, above - has) / speed
    spared = (seconds + has - above) / owner_speed
    until = np.maximum(left - spared, seconds / speed)
    best = int((until + prefix).argmin())
    return _Offer(owner, shard, int(first[best]), left - float(until[best]), float(prefix[best]))
