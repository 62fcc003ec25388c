"""Which nodes of a prefix tree save most, and where in the picture of all prompts they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.tree.prefix_tree import PrefixTree


@dataclass(frozen=True, slots=True)
class WideNode:
    """A shared run of tokens, ``token_ids[start:end]`` of the prompts at ranks ``first:last``."""

    node: int  # in the tree
    above: int  # index of the node above it among those shown; -1: none
    start: int
    end: int
    first: int
    last: int

    @property
    def saved_tokens(self) -> int:
        """Tokens that need no computing: all prompts below it but one have them for nothing."""
        return (self.end - self.start) * (self.last - self.first - 1)


def widest_nodes(tree: PrefixTree, most: int, *, least_share: float) -> tuple[WideNode, ...]:
    """The nodes that save most, with all that stand above them, parents first.

    At most ``most`` of them count for themselves, and each of those saves at least ``least_share``
    of all that the tree saves.
    """
    saved = saved_tokens(tree)
    widest = np.argsort(-saved, kind="stable")[:most]
    widest = widest[saved[widest] >= least_share * saved.sum()]
    shown = sorted({above for node in widest.tolist() for above in tree.branch(node)})
    place = {node: number for number, node in enumerate(shown)}
    return tuple(
        WideNode(
            node,
            place.get(int(tree.parent[node]), -1),
            int(tree.start[node]),
            int(tree.end[node]),
            int(tree.first[node]),
            int(tree.last[node]),
        )
        for node in shown
    )


def saved_tokens(tree: PrefixTree) -> npt.NDArray[np.int64]:  # [nodes]
    """What each node saves: its tokens times the prompts below it, but one."""
    tokens = (tree.end - tree.start).astype(np.int64)
    saved: npt.NDArray[np.int64] = tokens * (tree.last - tree.first - 1)
    return saved
