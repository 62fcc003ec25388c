"""Which shard a worker does next: its own, one that was returned, or one that is stolen.

One rule for the simulator and for the runner: a pure function of the `Board`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from batchpipe.planner.shards.board import Assignment, Board, part_of
from batchpipe.planner.shards.cut import Shard


@dataclass(frozen=True, slots=True)
class _Offer:
    """A shard or its end, as one worker might take it from another."""

    owner: int
    whole: Shard
    first: int  # of the ranks that would be taken, up to the whole's last
    gain_seconds: float  # by which both are done sooner
    prefix_seconds: float  # that the thief computes and somebody else does too

    @property
    def pays(self) -> bool:
        """True where more is won than computed twice."""
        return self.gain_seconds > self.prefix_seconds


def next_shard(board: Board, worker: int) -> Assignment | None:
    """What the worker is to begin now; None where it had better do nothing.

    Its own first, then what others gave back, then the best theft: of shards that name it as
    second, else of any, and only where that ends the work of both sooner, by more than the prefix
    that it computes again.
    """
    state = board.workers[worker]
    if not state.is_alive:
        return None
    if state.waiting:
        return Assignment(worker, state.waiting[0], state.waiting[0], worker)
    if board.returned:
        shard = max(board.returned, key=lambda each: (each.second == worker, each.seconds))
        return Assignment(worker, shard, shard, None)
    offers = [offer for offer in _offers(board, worker) if offer.pays]
    if not offers:
        return None
    best = max(offers, key=lambda each: (each.whole.second == worker, each.gain_seconds))
    shard = best.whole
    if best.first > shard.first:
        shard = part_of(board.work, shard, best.first, shard.last)
    return Assignment(worker, shard, best.whole, best.owner)


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
    work, speed = board.work, board.workers[worker].speed
    owner_speed = board.workers[owner].speed
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
