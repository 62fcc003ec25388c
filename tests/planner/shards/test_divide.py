"""Divisions: every prompt once, duplicates counted, balanced where that is possible."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import Jobs, mixed_job, small_setting, tree_of
from small_shards import every_job, grove, work_for

from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.shards.assign import Division, assign, divide
from batchpipe.planner.shards.cut import cheapest_borders, cut
from batchpipe.planner.shards.work import work_of

some_workers = st.integers(1, 9)
some_shards = st.integers(1, 5)


def ranges_of(division: Division) -> list[list[tuple[int, int]]]:
    return [[shard.ranks for shard in queue] for queue in division.queues]


@given(every_job, some_workers, some_shards)
def test_every_prompt_is_in_one_shard_of_one_worker(job: Jobs, workers: int, shards: int) -> None:
    division = divide(work_for(job), workers, shards)
    assert len(division.queues) == workers
    ranges = sorted(each for queue in ranges_of(division) for each in queue)
    assert [rank for each in ranges for rank in range(*each)] == list(range(len(job)))
    assert all(first < last for first, last in ranges)


@given(every_job, some_workers, some_shards)
def test_duplicated_tokens_are_those_of_the_workers_trees(
    job: Jobs, workers: int, shards: int
) -> None:
    work = work_for(job)
    division = divide(work, workers, shards)
    computed = 0
    for queue in division.queues:
        prompts = [p for s in queue for p in work.prompts(*s.ranks).tolist()]
        computed += tree_of([job[prompt] for prompt in prompts]).computed_tokens if prompts else 0
    assert division.duplicated_tokens == computed - tree_of(job).computed_tokens


@given(every_job, some_workers, some_shards, st.sampled_from([0.05, 0.5, 8.0]))
def test_shards_alone_duplicate_what_their_trees_do(
    job: Jobs, workers: int, count: int, slack: float
) -> None:
    work = work_for(job)
    shards = cut(work, workers, count, slack)
    if shards is None:
        return
    trees = [tree_of([job[p] for p in shards.prompts(each)]) for each in shards.all]
    computed = sum(tree.computed_tokens for tree in trees)
    assert shards.duplicated_tokens == computed - work.tree.computed_tokens
    assert len(shards.runs) <= workers
    for run in shards.runs:
        whole = work.seconds.of(run[0].first, run[-1].last)
        assert whole <= work.bound_seconds(workers) * (1 + slack) * (1 + 1e-9)


@given(every_job, some_workers, some_shards)
def test_no_shard_is_cut_where_its_prefix_exceeds_what_is_left(
    job: Jobs, workers: int, count: int
) -> None:
    shards = cut(work_for(job), workers, count, workers + 1.0)
    assert shards is not None
    for run in shards.runs:
        for shard in run[1:]:
            own = shards.work.seconds.added(*shard.ranks)
            assert own >= shards.work.crossing_seconds[shard.first] * (1 - 1e-9)


@given(every_job, some_workers, some_shards)
def test_the_second_worker_is_another_one(job: Jobs, workers: int, shards: int) -> None:
    for worker, queue in enumerate(divide(work_for(job), workers, shards).queues):
        for shard in queue:
            assert (shard.second == -1) if workers == 1 else (0 <= shard.second < workers)
            assert shard.second != worker


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=9), st.integers(1, 4))
def test_borders_are_the_cheapest_of_all(tokens: list[int], pieces: int) -> None:
    """Against every choice of borders, where no stretch hides one."""
    rng = np.random.default_rng(sum(tokens))
    job = [([*range(n), 100 + at, *rng.integers(0, 9, 3)], 1) for at, n in enumerate(tokens)]
    work = work_for(job)
    most = work.bound_seconds(pieces) * 1.4
    found = cheapest_borders(work, (0, len(job)), pieces, most)
    costs = []
    for chosen in range(1 << (len(job) - 1)):
        inner = [at + 1 for at in range(len(job) - 1) if chosen >> at & 1]
        ends = [0, *inner, len(job)]
        parts = [work.seconds.of(*each) for each in pairwise(ends)]
        if len(parts) <= pieces and max(parts) <= most:
            costs.append(sum(work.crossing_seconds[inner]))
    assert (found is None) == (not costs)
    if found is not None:
        assert sum(work.crossing_seconds[found[1:-1]]) == pytest.approx(min(costs), abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(2, 16))
def test_makespan_is_near_the_bound_on_random_trees(seed: int, workers: int) -> None:
    division = divide(work_for(mixed_job(seed, 800)), workers)
    assert division.makespan_seconds <= 1.1 * division.work.bound_seconds(workers)
    assert division.duplicated_tokens <= 0.05 * division.work.tree.computed_tokens


@given(every_job, some_workers)
def test_a_division_never_costs_more_than_one_worker_alone(job: Jobs, workers: int) -> None:
    division = divide(work_for(job), workers)
    assert division.price_seconds <= division.work.total_seconds * (1 + 1e-9)


def test_trees_stay_whole_where_they_can_be_dealt_out_evenly() -> None:
    division = divide(work_for(grove(trees=8, prefix_tokens=500, prompts=20)), 4)
    assert division.duplicated_tokens == 0
    assert division.makespan_seconds == pytest.approx(division.work.bound_seconds(4), rel=1e-9)


def test_a_tree_heavier_than_a_part_is_split_at_the_cost_of_its_prefix() -> None:
    division = divide(work_for(grove(trees=1, prefix_tokens=100, prompts=400)), 4)
    assert division.duplicated_tokens == 3 * 100
    assert division.makespan_seconds < 1.05 * division.work.bound_seconds(4)


def test_a_prefix_heavier_than_what_is_below_it_is_computed_once() -> None:
    division = divide(work_for(grove(trees=1, prefix_tokens=10_000, prompts=20, tail_tokens=5)), 4)
    assert division.duplicated_tokens == 0
    assert sum(bool(queue) for queue in division.queues) == 1


def test_heavy_prompts_go_to_workers_of_their_own_and_begin_first() -> None:
    light = [([1, at, 7, 7, 7], 1) for at in range(100)]
    division = divide(work_for([*light, ([5, 1, 1], 400), ([6, 1, 1], 400)]), 2)
    assert all(queue[0].seconds > 400 for queue in division.queues)
    assert division.makespan_seconds < 1.1 * division.work.bound_seconds(2)


def test_neighbours_of_one_tree_go_to_one_worker() -> None:
    work = work_for(grove(trees=4, prefix_tokens=300, prompts=40))
    shards = cut(work, 4, 4, 0.01)
    assert shards is not None
    division = assign(shards, 4)
    assert len(shards.all) > 4
    assert shards.duplicated_tokens > 0
    assert division.duplicated_tokens == 0


def test_no_prompts_leave_every_worker_without_shards() -> None:
    assert divide(work_of(make_plan(Prompts.pack([]), ()), None), 3).queues == ((), (), ())


def test_golden_division() -> None:
    """Two trees of 6 and 2 prompts on two workers: the large one is cut."""
    job = [([1, 2, 3, 4, 10 + at, 5, 5, 5], 2) for at in range(6)]
    job += [([9, 8, 20 + at, 5, 5, 5], 2) for at in range(2)]
    samplings = [Sampling(max_tokens=answer, ignore_eos=True) for _, answer in job]
    setting = small_setting(1000, 64)
    plan = make_plan(Prompts.pack([row for row, _ in job]), samplings, order="dfs", setting=setting)
    division = divide(work_of(plan, None), 2, 2)
    assert ranges_of(division) == [[(0, 2), (2, 4)], [(4, 6), (6, 8)]]
    assert division.duplicated_tokens == 4
    assert [shard.second for queue in division.queues for shard in queue] == [1, 1, 0, 0]
    assert division.work.prompts(4, 8).tolist() == [4, 5, 6, 7]
