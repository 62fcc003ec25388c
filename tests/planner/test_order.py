"""Orders of admission: every prompt once, sharing kept, each policy by its own measure."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import Jobs, cost_of, jobs, mixed_job, small_cost, tree_of

from batchpipe.planner.order import CANDIDATES, ORDERS, POLICIES, Order, Ordering
from batchpipe.planner.tree.prefix_groups import enlarged_groups
from batchpipe.planner.tree.prefix_tree import PrefixTree

names = st.sampled_from(sorted(POLICIES))
balanced_names = st.sampled_from(["balanced", "balanced-2", "balanced-3"])
every_job = st.one_of(jobs, st.integers(0, 99).map(lambda seed: mixed_job(seed, 60)))


def ordered(name: str, job: Jobs, *, measured: bool = False) -> Order:
    """The job in the order of this name, with the costs of a machine or with relative ones."""
    return POLICIES[name](
        Ordering(
            tree=tree_of(job),
            prompt_tokens=np.array([len(row) for row, _ in job], dtype=np.int64),
            output_tokens=np.array([answer for _, answer in job], dtype=np.int64),
            cost=cost_of(job, small_cost() if measured else None),
        )
    )


def order_of(name: str, job: Jobs) -> list[int]:
    order = ordered(name, job).prompts
    assert order.dtype == np.int32
    return [int(prompt) for prompt in order]


def decode_ratio(job: Jobs, prompts: list[int]) -> Fraction:
    """Answer tokens over prompt tokens of these prompts together."""
    return Fraction(sum(job[p][1] for p in prompts), sum(len(job[p][0]) for p in prompts))


def parts_below(tree: PrefixTree, node: int) -> list[list[int]]:
    """The prompts of each child node and of each tail of a node, or of the root (-1)."""
    children = np.flatnonzero(tree.parent == node).tolist()
    parts = [tree.order[tree.first[c] : tree.last[c]].tolist() for c in children]
    return parts + [[int(tree.order[rank])] for rank in np.flatnonzero(tree.tail_node == node)]


def in_order_of_start(order: list[int], parts: list[list[int]]) -> list[list[int]]:
    """The parts as the order visits them, each of which must be one run of it."""
    place = {prompt: at for at, prompt in enumerate(order)}
    for part in parts:
        places = sorted(place[prompt] for prompt in part)
        assert places == list(range(places[0], places[0] + len(part))), "a part is torn apart"
    return sorted(parts, key=lambda part: min(place[prompt] for prompt in part))


def one_level_groups(tree: PrefixTree) -> list[list[int]]:
    """The prompts of each enlarged group, alone or many, lexicographic."""
    above = enlarged_groups(tree)
    groups: dict[int, list[int]] = {}
    for rank, prompt in enumerate(tree.order.tolist()):
        node, unit = int(above.tail[rank]), ~rank
        while node >= 0:
            node, unit = int(above.node[node]), node
        groups.setdefault(unit, []).append(prompt)
    return list(groups.values())


# ---- every policy -----------------------------------------------------------------------------


@given(names, every_job)
def test_every_order_admits_every_prompt_once(name: str, job: Jobs) -> None:
    assert sorted(order_of(name, job)) == list(range(len(job)))


@given(names, jobs)
def test_order_is_the_same_for_the_same_input(name: str, job: Jobs) -> None:
    assert order_of(name, job) == order_of(name, job)


@given(names, jobs, st.integers(0, 999))
def test_order_without_some_prompts_keeps_its_order(name: str, job: Jobs, seed: int) -> None:
    order = ordered(name, job)
    waiting = np.random.default_rng(seed).random(len(job)) < 0.5
    kept = order.only(waiting)
    places = [place for place, prompt in enumerate(order.prompts) if waiting[prompt]]
    assert kept.prompts.tolist() == order.prompts[places].tolist()
    assert (kept.from_both_ends, kept.waves) == (order.from_both_ends, order.waves)
    if order.density is not None and kept.density is not None:
        assert kept.density.tolist() == order.density[places].tolist()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_prompts_make_an_empty_order(name: str) -> None:
    assert order_of(name, []) == []


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_deep_tree_is_no_deep_recursion(name: str) -> None:
    deep = [([1] * length, 1) for length in range(1, 1500)]
    assert sorted(order_of(name, deep)) == list(range(len(deep)))


def test_names_that_users_and_the_planner_choose_from_have_policies() -> None:
    assert set(ORDERS) - {"planned"} <= set(POLICIES)
    assert set(CANDIDATES) <= set(POLICIES)


# ---- one policy each ----------------------------------------------------------------------------


@given(jobs)
def test_dfs_is_lexicographic_and_input_is_as_it_came(job: Jobs) -> None:
    rows = [row for row, _ in job]
    assert order_of("dfs", job) == sorted(range(len(rows)), key=lambda index: (rows[index], index))
    assert order_of("input", job) == list(range(len(rows)))


@given(st.sampled_from(["dfs", "longest-first"]), jobs)
def test_subtrees_stay_whole(name: str, job: Jobs) -> None:
    tree, order = tree_of(job), order_of(name, job)
    for node in range(-1, len(tree.parent)):
        in_order_of_start(order, parts_below(tree, node))


@given(jobs)
def test_longest_first_visits_siblings_of_every_level_by_falling_decode_ratio(job: Jobs) -> None:
    tree, order = tree_of(job), order_of("longest-first", job)
    for node in range(-1, len(tree.parent)):
        parts = in_order_of_start(order, parts_below(tree, node))
        ratios = [decode_ratio(job, part) for part in parts]
        assert ratios == sorted(ratios, reverse=True)


@given(every_job)
def test_decode_first_visits_enlarged_groups_by_falling_decode_ratio(job: Jobs) -> None:
    tree, order = tree_of(job), order_of("decode-first", job)
    groups = in_order_of_start(order, one_level_groups(tree))
    ratios = [decode_ratio(job, group) for group in groups]
    assert ratios == sorted(ratios, reverse=True)
    rank = {prompt: at for at, prompt in enumerate(tree.order.tolist())}
    for group in groups:
        assert [p for p in order if p in group] == sorted(group, key=rank.__getitem__)


@given(balanced_names, every_job, st.booleans())
def test_balanced_density_never_rises_from_front_to_back(
    name: str, job: Jobs, measured: bool
) -> None:
    order = ordered(name, job, measured=measured)
    assert order.density is not None
    assert len(order.density) == len(job)
    assert (np.diff(order.density) <= 0).all()
    assert (order.density > 0).all()


@given(every_job)
def test_balanced_keeps_subtrees_whole_save_what_it_split_off(job: Jobs) -> None:
    tree, order = tree_of(job), ordered("balanced", job)
    assert order.density is not None
    density = dict(zip(order.prompts.tolist(), order.density.tolist(), strict=True))
    for group in parts_below(tree, -1):
        units = [[p for p in group if density[p] == one] for one in {density[p] for p in group}]
        in_order_of_start(order.prompts.tolist(), units)


@given(every_job)
def test_waves_change_nothing_but_when_the_back_begins(job: Jobs) -> None:
    one, two, three = (ordered(name, job) for name in ("balanced", "balanced-2", "balanced-3"))
    assert (one.waves, two.waves, three.waves) == (1, 2, 3)
    assert one.prompts.tolist() == two.prompts.tolist() == three.prompts.tolist()


@pytest.mark.parametrize("name", ["longest-first", "decode-first", "balanced"])
def test_equal_ratios_keep_lexicographic_order(name: str) -> None:
    job = [([3, 1], 4), ([1, 1], 4), ([2, 1], 4)]
    assert order_of(name, job) == [1, 2, 0]


def test_long_answers_start_first_inside_a_group_only_when_asked_for() -> None:
    job = [([1, 1, 1], 1), ([1, 1, 2], 90), ([2, 2, 2], 99)]
    assert order_of("longest-first", job) == [2, 1, 0]
    assert order_of("decode-first", job) == [2, 0, 1]
    assert order_of("dfs", job) == [0, 1, 2]
    assert order_of("balanced", job) == [0, 1, 2]


def test_few_long_answers_of_a_compute_bound_group_stand_at_the_back() -> None:
    long_ones = {17, 80}
    job = [([1, *[2 + p] * 90], 2000 if p in long_ones else 2) for p in range(300)]
    order = ordered("balanced", job, measured=True)
    assert set(order.prompts[-2:].tolist()) == long_ones
    assert order.density is not None
    steps = [len(list(run)) for _, run in groupby(order.density.tolist())]
    assert steps in ([298, 2], [298, 1, 1])
