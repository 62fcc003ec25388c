"""Orders and sums over parts of a tree, against plain recursion over the same parts."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import Jobs, jobs, tree_of

from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.siblings import Parts, parents, sorted_order, sums_below, units

Part = tuple[str, int]  # "node" and its number, or "tail" and its rank
Hung = tuple[PrefixTree, Parts, Parts]  # a tree, what each part hangs below, a key of each part

ROOT: Part = ("node", -1)


@st.composite
def hung_trees(draw: st.DrawFn) -> Hung:
    """A tree whose parts hang where they did, below any part above that, or below the root."""
    tree = tree_of(draw(jobs))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    node = [_one_above(rng, tree, parent, list(tree.parent)) for parent in tree.parent.tolist()]
    tail = [_one_above(rng, tree, parent, list(tree.parent)) for parent in tree.tail_node.tolist()]
    parent = Parts(np.array(node, dtype=np.int32), np.array(tail, dtype=np.int32))
    # Few keys, so that many are equal.
    key = Parts(rng.integers(-2, 3, len(node)) / 2, rng.integers(-2, 3, len(tail)) / 2)
    return tree, parent, key


def _one_above(rng: np.random.Generator, tree: PrefixTree, parent: int, above: list[int]) -> int:
    if rng.random() < 0.5:
        return parent
    choices = [-1]
    while parent >= 0:
        choices.append(parent)
        parent = int(above[parent])
    return int(rng.choice(choices))


def below(tree: PrefixTree, parent: Parts) -> dict[Part, list[Part]]:
    """The parts below each part, as the tree itself has them: outer ones first, by rank."""
    found: dict[Part, list[Part]] = defaultdict(list)
    parts = [(int(tree.first[node]), 0, node) for node in range(len(tree.parent))]
    parts += [(rank, 1, rank) for rank in range(len(tree.order))]
    for _, is_tail, number in sorted(parts):
        above = parent.tail[number] if is_tail else parent.node[number]
        found["node", int(above)].append(("tail" if is_tail else "node", number))
    return found


def value_of(values: Parts, part: Part) -> float:
    kind, number = part
    return float(values.node[number] if kind == "node" else values.tail[number])


@given(hung_trees())
def test_order_is_depth_first_with_siblings_by_rising_key(hung: Hung) -> None:
    tree, parent, key = hung
    children = below(tree, parent)

    def visit(part: Part) -> list[int]:
        if part[0] == "tail":
            return [int(tree.order[part[1]])]
        siblings = sorted(children[part], key=lambda child: value_of(key, child))  # stable
        return [prompt for child in siblings for prompt in visit(child)]

    order = sorted_order(tree, parent, key)
    assert order.dtype == np.int32
    assert order.tolist() == visit(ROOT)


@given(jobs)
def test_equal_keys_leave_the_tree_as_it_is(job: Jobs) -> None:
    tree = tree_of(job)
    nothing = Parts(np.zeros(len(tree.parent)), np.zeros(len(tree.order)))
    assert sorted_order(tree, parents(tree), nothing).tolist() == tree.order.tolist()


@given(hung_trees())
def test_sums_are_those_of_everything_below(hung: Hung) -> None:
    tree, parent, value = hung
    children = below(tree, parent)

    def total(part: Part) -> float:
        own = 0.0 if part == ROOT else value_of(value, part)
        return own + sum(map(total, children[part] if part[0] == "node" else ()))

    nodes = [*range(len(tree.parent)), -1]  # halves add up exactly
    assert sums_below(parent, value).tolist() == [total(("node", node)) for node in nodes]


@given(hung_trees())
def test_unit_is_the_part_right_below_the_root(hung: Hung) -> None:
    tree, parent, _ = hung
    children, nodes = below(tree, parent), len(tree.parent)
    expected: dict[Part, int] = {}

    def mark(part: Part, unit: int) -> None:
        expected[part] = unit
        for child in children[part] if part[0] == "node" else ():
            mark(child, unit)

    for part in children[ROOT]:
        mark(part, part[1] if part[0] == "node" else nodes + part[1])
    found = units(parent)
    assert found.node.tolist() == [expected["node", node] for node in range(nodes)]
    assert found.tail.tolist() == [expected["tail", rank] for rank in range(len(tree.order))]


def test_deep_trees_are_no_deep_recursion() -> None:
    tree = tree_of([([1] * length, 1) for length in range(1, 1500)])
    key = Parts(np.arange(len(tree.parent)), -np.arange(len(tree.order)))
    assert sorted(sorted_order(tree, parents(tree), key).tolist()) == list(range(1499))
    assert set(units(parents(tree)).node.tolist()) == {0}
