"""What ranges of prompts cost, against trees of exactly these prompts and sums over nodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import Jobs, cost_of, tree_of
from small_shards import every_job, work_for


def prompts_of(job: Jobs, ranks: list[int]) -> Jobs:
    order = tree_of(job).order.tolist()
    return [job[order[rank]] for rank in ranks]


def seconds_of(job: Jobs, ranks: list[int]) -> float:
    """Of the prompts at these ranks and every node above any of them, each counted once."""
    tree, cost = tree_of(job), cost_of(job)
    nodes = {
        node
        for node, (first, last) in enumerate(zip(tree.first, tree.last, strict=True))
        if any(first <= rank < last for rank in ranks)
    }
    prompts = (cost.compute + cost.own_memory)[tree.order[ranks]]
    shared = (cost.node_compute + cost.node_memory)[sorted(nodes)]
    return float(prompts.sum() + shared.sum())


ends = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(every_job, ends)
def test_a_range_costs_what_a_tree_of_its_prompts_costs(job: Jobs, ends: list[float]) -> None:
    first, last = (round(end * len(job)) for end in ends)
    ranks = list(range(first, last))
    work = work_for(job)
    if not ranks:
        assert work.seconds.of(first, last) == work.tokens.of(first, last) == 0
        return
    assert work.tokens.of(first, last) == tree_of(prompts_of(job, ranks)).computed_tokens
    assert work.seconds.of(first, last) == pytest.approx(seconds_of(job, ranks), rel=1e-9)


@given(every_job, st.integers(0, 2**20))
def test_ranges_together_cost_each_token_once(job: Jobs, seed: int) -> None:
    work = work_for(job)
    borders = np.flatnonzero(np.random.default_rng(seed).random(len(job) + 1) < 0.3).tolist()
    ranges = list(zip(borders[::2], borders[1::2], strict=False))
    ranks = [rank for each in ranges for rank in range(*each)]
    if not ranks:
        return
    assert work.together_tokens(ranges[::-1]) == tree_of(prompts_of(job, ranks)).computed_tokens
    assert work.together_seconds(ranges) == pytest.approx(seconds_of(job, ranks), rel=1e-9)


@given(every_job)
def test_a_border_costs_what_both_sides_need(job: Jobs) -> None:
    work, whole = work_for(job), len(job)
    for border in range(1, whole):
        apart = work.tokens.of(0, border) + work.tokens.of(border, whole)
        assert work.crossing_tokens[border] == apart - work.tokens.of(0, whole)
    assert work.crossing_tokens[0] == work.crossing_tokens[whole] == 0


@given(every_job)
def test_the_bound_is_the_whole_or_its_heaviest_prompt(job: Jobs) -> None:
    work = work_for(job)
    alone = [cost_of([each]) for each in job]
    heaviest = max(cost.compute_seconds + cost.memory_seconds for cost in alone)
    assert work.longest_seconds == pytest.approx(heaviest, rel=1e-9)
    assert work.bound_seconds(1) == pytest.approx(work.total_seconds, rel=1e-9)
    assert work.bound_seconds(10**9) == pytest.approx(heaviest, rel=1e-9)


@given(every_job, st.integers(0, 99))
def test_prompts_of_a_range_stand_in_the_order_of_the_plan(job: Jobs, seed: int) -> None:
    work = work_for(job, seed)
    order = np.random.default_rng(seed).permutation(len(job)).tolist()
    half = len(job) // 2
    expected = [prompt for prompt in order if prompt in set(work.tree.order[:half].tolist())]
    assert work.prompts(0, half).tolist() == expected
