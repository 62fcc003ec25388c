"""The flat tree against tries made of sets and dicts, one token at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchpipe.planner.request import Prompts
from batchpipe.planner.tree.prefix_tree import PrefixTree, build
from batchpipe.planner.tree.prompt_sort import WIDEST_WINDOW_TOKENS

Rows = list[list[int]]

short_rows = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), max_size=14)


@st.composite
def long_rows(draw: st.DrawFn) -> Rows:
    """Rows that follow one of two stems for a while: common prefixes of up to four windows."""
    longest = 3 * WIDEST_WINDOW_TOKENS + 40
    stems = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, (2, longest))
    branches = st.tuples(
        st.integers(0, 1), st.integers(0, longest), st.lists(st.integers(0, 2), max_size=3)
    )
    rows = [[*stems[s, :cut].tolist(), *own] for s, cut, own in draw(st.lists(branches))]
    return [row for row in rows if row]


any_rows = st.one_of(short_rows, long_rows())


def trie_tokens(rows: Rows) -> int:
    """How many tokens the trie of the rows has."""
    root: dict[int, Any] = {}
    tokens = 0
    for row in rows:
        place = root
        for token in row:
            tokens += token not in place
            place = place.setdefault(token, {})
    return tokens


def brute_force_nodes(rows: Rows) -> set[tuple[frozenset[int], int, int]]:
    """(prompts below, start, end) of each node.

    A node is a run of positions at which the same two or more prompts go together, each prompt
    without its last token. Prefixes that have the same prompts below extend each other.
    """
    below: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for index, row in enumerate(rows):
        for end in range(1, len(row)):
            below[tuple(row[:end])].add(index)
    ends: dict[frozenset[int], list[int]] = defaultdict(list)
    for prefix, indices in below.items():
        if len(indices) > 1:
            ends[frozenset(indices)].append(len(prefix))
    return {(indices, min(found) - 1, max(found)) for indices, found in ends.items()}


def nodes_of(tree: PrefixTree) -> list[tuple[frozenset[int], int, int]]:
    return [
        (frozenset(tree.order[first:last].tolist()), start, end)
        for first, last, start, end in zip(
            *(a.tolist() for a in (tree.first, tree.last, tree.start, tree.end)), strict=True
        )
    ]


def children_and_tails(tree: PrefixTree, node: int) -> tuple[list[int], list[int]]:
    """The child nodes and the ranks of the tails below a node, or below the root (-1)."""
    children, tails = np.flatnonzero(tree.parent == node), np.flatnonzero(tree.tail_node == node)
    return children.tolist(), tails.tolist()


@given(any_rows)
@example([[1, 2], [1, 2], [1, 2, 3]])
@example([[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]])
@example([[1, 2, 3], [1, 2, 4], [1, 5], [1, 2]])
def test_nodes_are_those_of_the_brute_force_trie(rows: Rows) -> None:
    nodes = nodes_of(build(Prompts.pack(rows)))
    assert len(nodes) == len(set(nodes))
    assert set(nodes) == brute_force_nodes(rows)


@given(any_rows)
def test_token_counts_are_those_of_the_brute_force_trie(rows: Rows) -> None:
    tree = build(Prompts.pack(rows))
    assert tree.prompt_tokens == sum(map(len, rows))
    assert tree.distinct_tokens == trie_tokens(rows)
    assert tree.shareable_tokens == tree.prompt_tokens - tree.distinct_tokens
    assert tree.computed_tokens == trie_tokens([row[:-1] for row in rows]) + len(rows)


@given(any_rows)
def test_order_is_lexicographic_with_ties_by_index(rows: Rows) -> None:
    order = build(Prompts.pack(rows)).order.tolist()
    assert order == sorted(range(len(rows)), key=lambda index: (rows[index], index))


def test_order_compares_token_ids_as_numbers() -> None:
    rows = [[256], [1], [65536], [255], [2**31 - 1], [0]]
    tree = build(Prompts.pack(rows))
    assert [rows[index][0] for index in tree.order] == sorted(row[0] for row in rows)


@given(any_rows)
def test_path_and_tail_hold_every_token_once(rows: Rows) -> None:
    tree = build(Prompts.pack(rows))
    for rank, index in enumerate(tree.order.tolist()):
        position = 0
        for node in tree.path(rank):
            start, end = int(tree.start[node]), int(tree.end[node])
            assert start == position < end
            # The node says the same tokens whoever below it is asked.
            somebody = int(tree.order[tree.first[node]])
            assert rows[somebody][start:end] == rows[index][start:end]
            assert tree.first[node] <= rank < tree.last[node]
            position = end
        assert position == tree.tail_start[rank] < len(rows[index])


@given(any_rows)
def test_nodes_stand_in_preorder_and_ranges_nest(rows: Rows) -> None:
    tree = build(Prompts.pack(rows))
    visited: list[int] = []

    def visit(node: int, first: int, last: int) -> None:
        position = first
        for child in children_and_tails(tree, node)[0]:
            assert child > node
            assert position <= tree.first[child] < tree.last[child] <= last
            assert tree.start[child] == (tree.end[node] if node >= 0 else 0)
            position = int(tree.last[child])
            visited.append(child)
            visit(child, int(tree.first[child]), position)

    visit(-1, 0, len(rows))
    assert visited == list(range(len(tree.parent)))
    assert (tree.last - tree.first >= 2).all()


@given(any_rows)
def test_paths_are_compressed(rows: Rows) -> None:
    tree = build(Prompts.pack(rows))
    for node in range(len(tree.parent)):
        children, tails = children_and_tails(tree, node)
        assert len(children) + len(tails) >= 2


@given(any_rows)
def test_only_one_token_tails_begin_like_a_sibling(rows: Rows) -> None:
    """Of the parts below one node that begin with one token, all but one are one-token tails.

    Two parts that both go on after that token share it without their last tokens, so it would be
    in a node above both. Only a tail that is the prompt's last token is kept out of such a node.
    """
    tree = build(Prompts.pack(rows))
    for node in range(-1, len(tree.parent)):
        children, tails = children_and_tails(tree, node)
        firsts = [rows[tree.order[tree.first[c]]][tree.start[c]] for c in children]
        for rank in tails:
            own = rows[tree.order[rank]][tree.tail_start[rank] :]
            firsts += [own[0]] if len(own) > 1 else []
        assert len(firsts) == len(set(firsts))


@given(any_rows)
def test_depth_counts_ancestors(rows: Rows) -> None:
    tree = build(Prompts.pack(rows))
    depth = tree.depth().tolist()
    for rank in range(len(rows)):
        assert [depth[node] for node in tree.path(rank)] == list(range(len(tree.path(rank))))


@given(any_rows, st.randoms(use_true_random=False))
def test_input_order_changes_only_the_prompt_indices(rows: Rows, random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, again, other = (build(Prompts.pack(r)) for r in (rows, rows, shuffled))
    np.testing.assert_array_equal(one.order, again.order)
    assert [rows[i] for i in one.order] == [shuffled[i] for i in other.order]
    for field in fields(PrefixTree):
        if field.name != "order":
            np.testing.assert_array_equal(getattr(one, field.name), getattr(again, field.name))
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_arrays_are_int32() -> None:
    for rows in ([], [[1]], [[1, 2], [1, 3]]):
        tree = build(Prompts.pack(rows))
        for field in fields(PrefixTree):
            found = getattr(tree, field.name)
            assert isinstance(found, int) or found.dtype == np.int32, field.name


def test_no_prompts_make_an_empty_tree() -> None:
    tree = build(Prompts.pack([]))
    assert len(tree.order) == len(tree.parent) == len(tree.depth()) == 0
    assert tree.prompt_tokens == tree.distinct_tokens == tree.computed_tokens == 0


def test_duplicates_share_all_but_the_last_token() -> None:
    tree = build(Prompts.pack([[7, 8, 9]] * 3))
    assert nodes_of(tree) == [(frozenset({0, 1, 2}), 0, 2)]
    assert tree.tail_start.tolist() == [2, 2, 2]
    assert (tree.distinct_tokens, tree.computed_tokens) == (3, 5)


def test_each_prompt_extends_the_last() -> None:
    """The deepest tree: one node a prompt."""
    prompts = 2000
    tree = build(Prompts.pack([list(range(length + 1)) for length in range(prompts)]))
    # Prompt i may share its first i tokens, and prompts from i on have them.
    assert tree.end.tolist() == list(range(1, prompts - 1))
    assert tree.first.tolist() == tree.end.tolist()
    assert tree.depth().tolist() == list(range(prompts - 2))
    assert tree.distinct_tokens == prompts


def test_a_prompt_without_tokens_is_named() -> None:
    with pytest.raises(AssertionError, match="prompt 1 has no tokens"):
        build(Prompts.pack([[1], []]))
