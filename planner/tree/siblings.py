"""Depth-first orders of a prefix tree whose siblings are sorted, and sums below its parts.

A *part* is a shared node or a prompt's own tail. Both hang below a node or below the root; a policy
may hang a part higher than the tree does, and then it is visited as a unit of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.planner.tree.prefix_tree import PrefixTree

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """One value for each node and one for each tail."""

    node: npt.NDArray[Any]  # [nodes] in preorder
    tail: npt.NDArray[Any]  # [prompts] by rank


def parents(tree: PrefixTree) -> Parts:
    """What each part hangs below in the tree itself; -1 for the root."""
    return Parts(tree.parent, tree.tail_node)


def sums_below(parent: Parts, value: Parts) -> npt.NDArray[np.float64]:  # [nodes + 1]
    """The values of each node and of everything below it; the last is that of the root."""
    sums = np.zeros(len(parent.node) + 1)
    sums[:-1] += value.node
    np.add.at(sums, parent.tail, value.tail)
    found: list[float] = sums.tolist()
    above = parent.node.tolist()
    for node in range(len(above) - 1, -1, -1):  # a parent stands before its children
        found[above[node]] += found[node]
    return np.array(found)


def units(parent: Parts) -> Parts:
    """The part right below the root that each part belongs to: nodes, then ``nodes + rank``."""
    nodes = len(parent.node)
    unit = list(range(nodes))
    for node, above in enumerate(parent.node.tolist()):
        if above >= 0:
            unit[node] = unit[above]
    of_node = np.array(unit, dtype=np.int64)
    own = nodes + np.arange(len(parent.tail))
    if not nodes:
        return Parts(of_node, own)
    return Parts(of_node, np.where(parent.tail >= 0, of_node[parent.tail], own))


def sorted_order(tree: PrefixTree, parent: Parts, key: Parts) -> Indices:  # [prompts]
    """Depth-first with siblings by rising key, equal keys as in the tree; prompt indices.

    One sort for all siblings gives each part its place below its parent; parents before children,
    places add up from the root.
    """
    nodes, prompts = len(parent.node), len(parent.tail)
    above = np.concatenate([parent.node, parent.tail]).astype(np.int64)
    first = np.concatenate([tree.first, np.arange(prompts)])
    size = np.ones(nodes + prompts, dtype=np.int64)
    size[:nodes] = sums_below(parent, Parts(np.zeros(nodes), np.ones(prompts)))[:-1]
    by_sibling = np.lexsort((first, np.concatenate([key.node, key.tail]), above))
    before = np.cumsum(size[by_sibling]) - size[by_sibling]
    siblings = above[by_sibling]
    begins = np.flatnonzero(np.append(True, siblings[1:] != siblings[:-1])[: len(siblings)])
    group_start = np.repeat(before[begins], np.diff(np.append(begins, len(before))))
    place = np.empty(nodes + prompts, dtype=np.int64)
    place[by_sibling] = before - group_start
    start = place[:nodes].tolist()
    for node, parent_node in enumerate(above[:nodes].tolist()):
        if parent_node >= 0:
            start[node] += start[parent_node]
    of_node = np.append(np.array(start, dtype=np.int64), 0)  # the last stands for the root
    order = np.empty(prompts, dtype=np.int32)
    order[place[nodes:] + of_node[parent.tail]] = tree.order
    return order
