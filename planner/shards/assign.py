"""Which worker gets which shards: neighbours together where the balance allows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from batchpipe.planner.shards.cut import Shard, Shards, cut
from batchpipe.planner.shards.work import Work

Seconds = npt.NDArray[np.float64]

# What a worker may have above an equal part for the sake of prefixes that it has already.
AFFINITY_SLACKS = (0.0, 0.02, 0.05)
# How much heavier than an equal part a run may be: the more, the cheaper the borders to be found.
RUN_SLACKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

# Where the price is above this times the bound, the same is tried with so many times the shards.
GOOD_PRICE = 1.03
FINER = (1, 2, 4)
PATIENCE = 4  # cuts in a row that are no better end the search among ever less even ones


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Every shard with one worker, which takes its own in order of rank."""

    work: Work
    queues: tuple[tuple[Shard, ...], ...]  # [workers]

    def seconds(self) -> tuple[float, ...]:
        """Modelled, of each worker; what its shards share is computed once."""
        return tuple(
            self.work.together_seconds([shard.ranks for shard in queue]) for queue in self.queues
        )

    @property
    def makespan_seconds(self) -> float:
        """Until the last worker is done, if all are equal and nothing is stolen."""
        return max(self.seconds())

    @property
    def duplicated_tokens(self) -> int:
        """Prompt tokens that more than one worker computes, each time but one."""
        each = (self.work.together_tokens([s.ranks for s in queue]) for queue in self.queues)
        return sum(each) - self.work.tree.computed_tokens

    @property
    def price_seconds(self) -> float:
        """The makespan and once more the part of it that duplicated prefixes are.

        So a prefix is computed twice only where that wins more time than it takes.
        """
        seconds = self.seconds()
        duplicated = sum(seconds) - self.work.total_seconds
        return max(seconds) + max(0.0, duplicated) / len(seconds)


def divide(work: Work, workers: int, shards_per_worker: int = 4) -> Division:
    """The least price of all cuts and assignments that are looked at."""
    assert workers >= 1, f"{workers} workers"
    assert shards_per_worker >= 1, f"{shards_per_worker} shards per worker"
    if not len(work):
        return Division(work, ((),) * workers)
    best = Division(work, ((Shard(0, len(work), work.total_seconds),), *((),) * (workers - 1)))
    for finer in FINER:
        no_better = 0
        for shards in _cuts(work, workers, shards_per_worker * finer):
            before, best = best, _cheaper(best, assign(shards, workers))
            no_better = no_better + 1 if best is before else 0
            if no_better == PATIENCE:
                break
        if best.price_seconds <= GOOD_PRICE * work.bound_seconds(workers):
            break
    return with_second(best)


def _cuts(work: Work, workers: int, shards_per_worker: int) -> Iterator[Shards]:
    for slack in [s for s in RUN_SLACKS if s < workers - 1] + [workers - 1.0]:
        shards = cut(work, workers, shards_per_worker, slack)
        if shards is not None:
            yield shards


def assign(shards: Shards, workers: int) -> Division:
    """The shards dealt out: whole runs, or one by one and heaviest first, at the lower price."""
    assert len(shards.runs) <= workers, f"{len(shards.runs)} runs for {workers} workers"
    runs = shards.runs + ((),) * (workers - len(shards.runs))
    divisions = [Division(shards.work, runs)]
    common = _common_seconds(shards.work, shards.all)
    for slack in AFFINITY_SLACKS:
        most = shards.work.bound_seconds(workers) * (1 + slack)
        divisions.append(Division(shards.work, _heaviest_first(shards.all, common, workers, most)))
    return reduce(_cheaper, divisions)


def _cheaper(one: Division, other: Division) -> Division:
    """The other only where it is cheaper by more than rounding, so that a choice is stable."""
    return other if other.price_seconds < one.price_seconds * (1 - 1e-6) else one


def _heaviest_first(
    shards: Sequence[Shard], common: Seconds, workers: int, most_seconds: float
) -> tuple[tuple[Shard, ...], ...]:
    """Longest processing time first, and of workers with room the one that has most of its prefix.

    Graham's rule with a discount: a shard takes a worker less by what it has already.
    """
    load = np.zeros(workers)
    held = np.zeros((workers, len(shards)))  # seconds of each shard that a worker has already
    owner = np.empty(len(shards), dtype=np.int64)
    for place in sorted(range(len(shards)), key=lambda place: -shards[place].seconds):
        finish = load + shards[place].seconds - held[:, place]
        saves = np.where(finish <= most_seconds, held[:, place], 0.0)
        best = saves.max()
        worker = int(np.where(saves == best, finish, np.inf).argmin())
        owner[place], load[worker] = worker, finish[worker]
        held[worker] = np.maximum(held[worker], common[place])
    return tuple(
        tuple(shards[place] for place in np.flatnonzero(owner == worker).tolist())
        for worker in range(workers)
    )


def with_second(division: Division) -> Division:
    """Every shard names the worker that would be done with it soonest after its own.

    DualMap's second candidate for known work: the least loaded, as if it did all that names it, and
    sooner by the prefix that it has already.
    """
    workers = len(division.queues)
    if workers == 1:
        return division
    shards = [shard for queue in division.queues for shard in queue]
    owner = np.repeat(np.arange(workers), [len(queue) for queue in division.queues])
    by_rank = sorted(range(len(shards)), key=lambda place: shards[place].first)
    shards, owner = [shards[place] for place in by_rank], owner[by_rank]
    common = _common_seconds(division.work, shards)
    load = np.array(division.seconds())
    queues: list[list[Shard]] = [[] for _ in range(workers)]
    for place, shard in enumerate(shards):
        has = np.zeros(workers)
        np.maximum.at(has, owner, common[place])
        finish = load + shard.seconds - has
        finish[owner[place]] = np.inf
        second = int(finish.argmin())
        load[second] = finish[second]
        queues[owner[place]].append(replace(shard, second=second))
    return Division(division.work, tuple(tuple(sorted(q, key=_turn)) for q in queues))


def _turn(shard: Shard) -> tuple[float, int]:
    """Prompts that are shards alone first, by weight: none is begun when the others are done.

    All others in order of rank, so that each goes on with what is held of the one before.
    """
    return (-shard.seconds if shard.last - shard.first == 1 else 0.0), shard.first


def _common_seconds(work: Work, shards: Sequence[Shard]) -> Seconds:  # [shards, shards]
    """What each two shards, in order of rank, both need; nothing of themselves."""
    count = len(shards)
    common = np.zeros((count, count))
    # What crosses all borders from the one to the other: the least from border to border.
    inside = [work.crossing_seconds[s.first : s.last + 1].min() for s in shards]
    between = [
        work.crossing_seconds[one.last : other.first + 1].min() for one, other in pairwise(shards)
    ]
    for place in range(count):
        least = np.inf
        for other in range(place + 1, count):
            least = min(least, between[other - 1])
            common[place, other] = common[other, place] = least
            if least == 0:
                break
            least = min(least, inside[other])
    return common
