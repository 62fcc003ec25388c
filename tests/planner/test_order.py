"""Orders of admission: every prompt once, sharing kept, long answers first."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.order import ORDERS, Lengths
from batchpipe.planner.prefix_tree import PrefixTree, build
from batchpipe.planner.request import Prompts

Rows = list[list[int]]
Jobs = list[tuple[list[int], int]]  # prompt, expected answer tokens

jobs = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=7), st.integers(1, 50)), max_size=16
)
names = st.sampled_from(sorted(ORDERS))


def tree_of(job: Jobs) -> tuple[PrefixTree, Lengths, Lengths]:
    prompts = Prompts.pack([row for row, _ in job])
    return build(prompts), prompts.lengths, np.array([answer for _, answer in job], dtype=np.int64)


def order_of(name: str, job: Jobs) -> list[int]:
    order = ORDERS[name](*tree_of(job))
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
        assert places == list(range(places[0], places[0] + len(part))), "a subtree is torn apart"
    return sorted(parts, key=lambda part: min(place[prompt] for prompt in part))


@given(names, jobs)
def test_every_order_admits_every_prompt_once(name: str, job: Jobs) -> None:
    assert sorted(order_of(name, job)) == list(range(len(job)))


@given(names, jobs)
def test_order_is_the_same_for_the_same_input(name: str, job: Jobs) -> None:
    assert order_of(name, job) == order_of(name, job)


@given(st.sampled_from(["planned", "dfs", "decode-first"]), jobs)
def test_subtrees_stay_whole(name: str, job: Jobs) -> None:
    tree, order = tree_of(job)[0], order_of(name, job)
    for node in range(-1, len(tree.parent)):
        in_order_of_start(order, parts_below(tree, node))


@given(jobs)
def test_planned_visits_siblings_of_every_level_by_falling_decode_ratio(job: Jobs) -> None:
    tree, order = tree_of(job)[0], order_of("planned", job)
    for node in range(-1, len(tree.parent)):
        parts = in_order_of_start(order, parts_below(tree, node))
        ratios = [decode_ratio(job, part) for part in parts]
        assert ratios == sorted(ratios, reverse=True)


@given(jobs)
def test_decode_first_visits_first_level_groups_by_falling_decode_ratio(job: Jobs) -> None:
    tree, order = tree_of(job)[0], order_of("decode-first", job)
    groups = in_order_of_start(order, parts_below(tree, -1))
    ratios = [decode_ratio(job, group) for group in groups]
    assert ratios == sorted(ratios, reverse=True)
    rank = {prompt: at for at, prompt in enumerate(tree.order.tolist())}
    for group in groups:
        assert [p for p in order if p in group] == sorted(group, key=rank.__getitem__)


@given(jobs)
def test_dfs_is_lexicographic_and_input_is_as_it_came(job: Jobs) -> None:
    rows = [row for row, _ in job]
    assert order_of("dfs", job) == sorted(range(len(rows)), key=lambda index: (rows[index], index))
    assert order_of("input", job) == list(range(len(rows)))


@pytest.mark.parametrize("name", ["planned", "decode-first"])
def test_equal_ratios_keep_lexicographic_order(name: str) -> None:
    job = [([3, 1], 4), ([1, 1], 4), ([2, 1], 4)]
    assert order_of(name, job) == [1, 2, 0]


def test_long_answers_start_first_inside_a_group_only_when_planned() -> None:
    job = [([1, 1, 1], 1), ([1, 1, 2], 90), ([2, 2, 2], 99)]
    assert order_of("planned", job) == [2, 1, 0]
    assert order_of("decode-first", job) == [2, 0, 1]
    assert order_of("dfs", job) == [0, 1, 2]


@pytest.mark.parametrize("name", sorted(ORDERS))
def test_no_prompts_make_an_empty_order(name: str) -> None:
    assert order_of(name, []) == []


@pytest.mark.parametrize("name", ["planned", "decode-first"])
def test_deep_tree_is_no_deep_recursion(name: str) -> None:
    deep = [([1] * length, 1) for length in range(1, 1500)]
    assert sorted(order_of(name, deep)) == list(range(len(deep)))
