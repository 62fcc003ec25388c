"""One-level groups against BatchLLM's rule written as plain recursion, and what they save."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import Jobs, jobs, tree_of

from batchpipe.planner.tree.prefix_groups import enlarged_groups
from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.siblings import parents, units

Groups = set[tuple[frozenset[int], int]]  # the ranks of each group and the tokens of its prefix


@dataclass(eq=False)
class Node:
    """A node of the rule: a run of tokens; without children it is the end of one prompt."""

    tokens: int
    rank: int = -1
    children: list[Node] = field(default_factory=list)

    def leaves(self) -> list[int]:
        if not self.children:
            return [self.rank]
        return [rank for child in self.children for rank in child.leaves()]

    def inner(self) -> list[Node]:
        return [child for child in self.children if child.children]


def root_of(tree: PrefixTree) -> Node:
    root = Node(0)
    nodes = [Node(int(end - start)) for start, end in zip(tree.start, tree.end, strict=True)]
    for node, parent in zip(nodes, tree.parent.tolist(), strict=True):
        (nodes[parent] if parent >= 0 else root).children.append(node)
    for rank, parent in enumerate(tree.tail_node.tolist()):
        (nodes[parent] if parent >= 0 else root).children.append(Node(0, rank))
    return root


def enlarge(node: Node) -> None:
    """``MaximizeReuse``: the subtree of every child is enlarged before the child itself."""
    for child in node.inner()[::-1]:
        enlarge(child)
        for grandchild in child.inner():
            if len(child.children) > 1:
                width = len(grandchild.leaves())
                if (width - 1) * grandchild.tokens - child.tokens > 0:
                    child.children.remove(grandchild)
                    grandchild.tokens += child.tokens
                    node.children.append(grandchild)
            if len(child.children) == 1:
                only = child.children[0]
                child.tokens += only.tokens
                child.rank, child.children = only.rank, only.children
                break


def groups_by_rule(tree: PrefixTree) -> Groups:
    root = root_of(tree)
    enlarge(root)
    return {(frozenset(child.leaves()), child.tokens) for child in root.inner()}


def groups_found(tree: PrefixTree) -> Groups:
    """The prompts of two and more that hang together below the root, and what all of them share."""
    unit = units(enlarged_groups(tree)).tail
    groups = set()
    for one in set(unit.tolist()):
        ranks = np.flatnonzero(unit == one).tolist()
        if len(ranks) > 1:
            paths = [tree.path(rank) for rank in ranks]
            common = [node for node in paths[0] if all(node in path for path in paths)]
            groups.add((frozenset(ranks), int(tree.end[common[-1]])))
    return groups


def saved_tokens(groups: Groups) -> int:
    return sum((len(ranks) - 1) * tokens for ranks, tokens in groups)


def long_job(seed: int) -> Jobs:
    """Prompts along stems that fork at random places: nodes of very different lengths."""
    rng = np.random.default_rng(seed)
    stems = rng.integers(0, 2, (3, 40))
    rows = []
    for place in range(int(rng.integers(2, 40))):
        stem, cut = stems[rng.integers(3)], int(rng.integers(0, 40))
        rows.append([*stem[:cut].tolist(), *rng.integers(2, 4, rng.integers(0, 4)), 100 + place])
    return [([int(token) for token in row], 1) for row in rows]


every_job = st.one_of(jobs, st.integers(0, 9999).map(long_job))


@given(every_job)
def test_groups_are_those_of_the_rule(job: Jobs) -> None:
    tree = tree_of(job)
    found, expected = dict(groups_found(tree)), dict(groups_by_rule(tree))
    assert found.keys() == expected.keys()
    # The rule may give a group a copy of its parent's tokens that all who stayed have too.
    assert all(found[ranks] >= tokens for ranks, tokens in expected.items())


@given(every_job)
def test_enlarged_groups_save_at_least_what_the_first_level_saves(job: Jobs) -> None:
    tree = tree_of(job)
    top = np.flatnonzero(tree.parent < 0)
    first_level = int(((tree.last - tree.first - 1) * tree.end)[top].sum())
    assert first_level <= saved_tokens(groups_found(tree)) <= tree.shareable_tokens


@given(every_job)
def test_parts_only_rise(job: Jobs) -> None:
    tree = tree_of(job)
    found, before = enlarged_groups(tree), parents(tree)
    assert found.tail.tolist() == before.tail.tolist()
    for node, above in enumerate(found.node.tolist()):
        assert above in (-1, *tree.branch(int(tree.parent[node])))


def test_fat_branches_become_groups_and_the_last_stays() -> None:
    system = [1] * 10
    job = [([*system, *[branch] * 100, 50 + end], 1) for branch in (2, 3, 4) for end in range(3)]
    tree = tree_of(job)
    assert groups_found(tree) == {(frozenset(range(n, n + 3)), 110) for n in (0, 3, 6)}


def test_thin_branches_stay_below_their_prefix() -> None:
    job = [([*[1] * 100, branch, 50 + end], 1) for branch in (2, 3, 4) for end in range(3)]
    assert groups_found(tree_of(job)) == {(frozenset(range(9)), 100)}
