"""Where a plan is cut for several workers: shards of about equal time, along cheap borders.

Twice the same search: the whole into a run for each worker (BlendServe, S7), and each run into
several shards, so that there is something to deal out and to steal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from batchpipe.planner.shards.work import Work

Int64s = npt.NDArray[np.int64]

SHARD_SLACK = 0.25  # shards of one run are dealt out one by one, so they may differ
WINDOW_BORDERS = 256  # that compete for one cut


@dataclass(frozen=True, slots=True)
class Shard:
    """The prompts at ranks ``first:last``, for one worker at a time."""

    first: int
    last: int
    seconds: float  # modelled, with all nodes above its prompts
    second: int = -1  # the worker to take it if its own does not come to it; -1: none
    failures: int = 0

    @property
    def ranks(self) -> tuple[int, int]:
        """The half-open range of its ranks."""
        return self.first, self.last


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """Every prompt in one shard, neighbours in rank side by side."""

    work: Work
    runs: tuple[tuple[Shard, ...], ...]  # neighbouring shards of about equal time together

    @property
    def all(self) -> tuple[Shard, ...]:
        """The shards in order of rank."""
        return tuple(shard for run in self.runs for shard in run)

    def prompts(self, shard: Shard) -> npt.NDArray[np.int32]:
        """Its prompts in the plan's order, as indices into the plan."""
        return self.work.prompts(shard.first, shard.last)

    @property
    def duplicated_tokens(self) -> int:
        """Prompt tokens computed more than once if every shard had a worker of its own."""
        alone = sum(int(self.work.tokens.of(*shard.ranks)) for shard in self.all)
        return alone - self.work.tree.computed_tokens


def cut(work: Work, workers: int, shards_per_worker: int, run_slack: float) -> Shards | None:
    """At most so many runs, each at most ``1 + run_slack`` of an equal part, cut at least cost.

    None where no such runs exist.
    """
    most = work.bound_seconds(workers) * (1 + run_slack)
    borders = cheapest_borders(work, (0, len(work)), min(workers, len(work)), most)
    if borders is None:
        return None
    part = work.total_seconds / workers / shards_per_worker
    return Shards(work, tuple(_shards(work, run, part) for run in pairwise(borders)))


def _shards(work: Work, run: tuple[int, int], part_seconds: float) -> tuple[Shard, ...]:
    """The run in shards of about so many seconds, none with more prefix than time of its own.

    A prompt that is heavier than that is a shard alone.
    """
    first, last = run
    own = np.diff(work.seconds.alone[first : last + 1])
    heavy = (first + np.flatnonzero(own > part_seconds)).tolist()
    ends = sorted({first, last, *heavy, *(rank + 1 for rank in heavy)})
    borders = [first]
    for stretch in pairwise(ends):
        borders += _even_borders(work, stretch, part_seconds)[1:]
    kept = _worth_cutting(work, borders)
    return tuple(Shard(*each, work.seconds.of(*each)) for each in pairwise(kept))


def _worth_cutting(work: Work, borders: list[int]) -> list[int]:
    """The borders between pieces that have no less of their own than what crosses to either."""
    kept, above, last = borders[:1], work.crossing_seconds, borders[-1]
    for border in borders[1:-1]:
        left = above[kept[-1]] if len(kept) > 1 else 0.0
        if work.seconds.added(kept[-1], border) >= max(left, above[border]):
            kept.append(border)
    while len(kept) > 1 and work.seconds.added(kept[-1], last) < above[kept[-1]]:
        kept.pop()
    return [*kept, last]


def _even_borders(work: Work, within: tuple[int, int], part_seconds: float) -> list[int]:
    """The range in as many pieces as it has such parts, however unlike they have to be."""
    pieces = min(within[1] - within[0], math.ceil(work.seconds.of(*within) / part_seconds))
    most = work.crossing_seconds[list(within)].max() + work.seconds.of(*within) / pieces
    borders: list[int] | None = None
    while borders is None:
        most *= 1 + SHARD_SLACK
        borders = cheapest_borders(work, within, pieces, most)
    return borders


def cheapest_borders(
    work: Work, within: tuple[int, int], pieces: int, most_seconds: float
) -> list[int] | None:
    """Where to cut a range into at most so many, none heavier than ``most_seconds``.

    The cuts double as few seconds of prefixes as is possible between the borders that are looked
    at, the cheapest of each small stretch; None where the pieces would be too heavy.
    """
    ranks = _candidates(work, within, _stretch_seconds(work, within, pieces, most_seconds))
    sums, cost = work.seconds, work.crossing_seconds[ranks]
    begin = (sums.alone + sums.ended)[ranks]  # a piece from i to j takes end[j] - begin[i]
    end = (sums.alone + sums.begun)[ranks]
    most = most_seconds * (1 + 1e-12)
    cheapest = np.full(len(ranks), np.inf)  # of the ways to a border with so many pieces or fewer
    cheapest[0] = 0.0
    ways: list[Int64s] = []
    for left in range(pieces - 1, -1, -1):
        starts = np.flatnonzero(np.isfinite(cheapest))
        # From where the rest is too much for the pieces left, there is no way on.
        near = max(int(starts[0]), int(np.searchsorted(end, end[-1] - left * most)))
        far = min(len(ranks), int(np.searchsorted(end, begin[starts[-1]] + most, "right")))
        if near >= far:
            return None
        stops = np.arange(near, far)
        ahead = (stops > starts[:, None]) & (end[stops] - begin[starts][:, None] <= most)
        price = np.where(stops == starts[:, None], 0.0, np.where(ahead, cost[stops], np.inf))
        price += cheapest[starts][:, None]
        chosen = price.argmin(axis=0)
        cheapest = np.full(len(ranks), np.inf)
        cheapest[stops] = price[chosen, stops - near]
        if not np.isfinite(cheapest).any():
            return None
        ways.append(np.full(len(ranks), -1))
        ways[-1][stops] = starts[chosen]
    if not np.isfinite(cheapest[-1]):
        return None
    return [int(rank) for rank in ranks[_followed(ways)]]


def _followed(ways: list[Int64s]) -> list[int]:
    """The borders on the way to the last one, by where each way came from."""
    on_way = [len(ways[-1]) - 1]
    for came_from in reversed(ways):
        on_way.append(int(came_from[on_way[-1]]))
    return sorted(set(on_way))


def _stretch_seconds(
    work: Work, within: tuple[int, int], pieces: int, most_seconds: float
) -> float:
    """The time in which one border stands for all: the less, the less room a cut has to move."""
    spare = pieces * most_seconds - work.seconds.of(*within)
    return float(min(most_seconds / 8, max(spare / WINDOW_BORDERS, most_seconds / 4096)))


def _candidates(work: Work, within: tuple[int, int], stretch_seconds: float) -> Int64s:
    """The cheapest border of each stretch, and the two ends."""
    first, last = within
    ranks = np.arange(first, last + 1)
    reached = (work.seconds.alone + work.seconds.begun)[first : last + 1]
    stretch = ((reached - reached[0]) / max(stretch_seconds, 1e-30)).astype(np.int64)
    by_cost = np.lexsort((ranks, work.crossing_tokens[first : last + 1], stretch))
    opens = np.append(True, np.diff(stretch[by_cost]) > 0)
    return np.unique(np.concatenate([ranks[by_cost][opens], [first, last]]))
