"""Densities of subtrees against sums over their tokens, and what is split off for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import Jobs, cost_of, jobs, mixed_job, small_cost, tree_of

from batchpipe.planner.density import UNLIKE, density_of, split_units, unit_density
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.siblings import Parts, parents

many_jobs = st.integers(0, 9999).map(mixed_job)
every_job = st.one_of(jobs, many_jobs)


def density_by_tokens(job: Jobs, cost: StepCost, prompts: list[int], start: int) -> float:
    """``sum Comp / sum Mem`` of these prompts, each distinct token from ``start`` on once.

    A prompt's last token is its own: it is computed for the logits, whoever else has it.
    """
    distinct = {tuple(job[p][0][:end]) for p in prompts for end in range(1, len(job[p][0]))}
    positions = [len(prefix) - 1 for prefix in distinct if len(prefix) > start]
    positions += [len(job[p][0]) - 1 for p in prompts]
    outputs = sum(job[p][1] for p in prompts)
    comp = (len(positions) + outputs) * cost.token_seconds + outputs * cost.head_seconds
    comp += sum(position + 0.5 for position in positions) * cost.pair_seconds
    mem = sum(len(job[p][0]) * job[p][1] + job[p][1] ** 2 / 2 for p in prompts) * cost.key_seconds
    return comp / mem


@settings(max_examples=60)
@given(every_job)
def test_density_of_a_subtree_counts_each_distinct_token_once(job: Jobs) -> None:
    tree, cost = tree_of(job), small_cost()
    density = density_of(tree, cost_of(job, cost))
    for node in range(len(tree.parent)):
        prompts = tree.order[tree.first[node] : tree.last[node]].tolist()
        expected = density_by_tokens(job, cost, prompts, int(tree.start[node]))
        assert density.node[node] == pytest.approx(expected, rel=1e-9)
    for rank, prompt in enumerate(tree.order.tolist()):
        expected = density_by_tokens(job, cost, [prompt], int(tree.tail_start[rank]))
        assert density.tail[rank] == pytest.approx(expected, rel=1e-9)


@given(every_job)
def test_density_of_the_whole_job_is_that_of_all_its_tokens(job: Jobs) -> None:
    if job:
        cost = small_cost()
        expected = density_by_tokens(job, cost, list(range(len(job))), 0)
        assert cost_of(job, cost).density == pytest.approx(expected, rel=1e-9)


def split_parts(tree: PrefixTree, parent: Parts) -> list[tuple[str, int, int]]:
    """Kind and number of each part that went to the root, and what it hung below."""
    before, found = parents(tree), []
    for kind, old, new in (("node", before.node, parent.node), ("tail", before.tail, parent.tail)):
        for number in np.flatnonzero(old != new).tolist():
            assert new[number] == -1
            found.append((kind, number, int(old[number])))
    return found


@given(every_job, st.booleans())
def test_split_parts_cost_at_most_a_hundredth_of_the_sharing(job: Jobs, measured: bool) -> None:
    tree, cost = tree_of(job), cost_of(job, small_cost() if measured else None)
    split = split_parts(tree, split_units(tree, cost, density_of(tree, cost)))
    entered_again = sum(int(tree.end[above]) for _, _, above in split)
    assert entered_again <= 0.01 * tree.shareable_tokens + 1e-9


@given(every_job, st.booleans())
def test_only_parts_much_thinner_than_what_is_above_leave(job: Jobs, measured: bool) -> None:
    tree, cost = tree_of(job), cost_of(job, small_cost() if measured else None)
    density = density_of(tree, cost)
    for kind, number, above in split_parts(tree, split_units(tree, cost, density)):
        own = density.node[number] if kind == "node" else density.tail[number]
        assert own * UNLIKE < density.node[above]


def test_long_answers_leave_while_they_are_affordable() -> None:
    """300 prompts share 299 * 3 tokens, and 1 % of them are two prefixes of 3."""
    answers = {10: 700, 20: 900, 30: 800}
    job = [([1, 1, 1, *[2 + place] * 90], answers.get(place, 3)) for place in range(300)]
    tree, cost = tree_of(job), cost_of(job)
    split = split_parts(tree, split_units(tree, cost, density_of(tree, cost)))
    assert {int(tree.order[rank]) for _, rank, _ in split} == {20, 30}


def test_density_of_what_stays_rises_when_thin_parts_leave() -> None:
    job = [([1, *[2 + place] * 90], 2000 if place == 7 else 2) for place in range(300)]
    tree, cost = tree_of(job), cost_of(job)
    whole = density_of(tree, cost)
    parent = split_units(tree, cost, whole)
    split = density_of(tree, cost, parent)
    assert split.node[0] > 10 * whole.node[0]
    by_prompt = unit_density(tree, parent, split)
    assert by_prompt[7] == split.tail[tree.order.tolist().index(7)]
    assert set(np.delete(by_prompt, 7).tolist()) == {float(split.node[0])}


def test_no_prompts_have_nothing_to_split() -> None:
    tree, cost = tree_of([]), cost_of([])
    parent = split_units(tree, cost, density_of(tree, cost))
    assert (len(parent.node), len(parent.tail)) == (0, 0)
