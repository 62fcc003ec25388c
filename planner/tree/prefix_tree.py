"""Which prompts begin alike: the trie of all prompts, path-compressed, in flat arrays.

Knows token ids and positions only: nothing of sampling, cost or order of execution. Duplicates are
welcome here (they share all but their last token), though `duplicates.collapse` answers them for
less.

Sort the prompts, take the common prefix length of each pair of neighbours, and let a stack turn
those lengths into nodes (the LCP-interval tree of Abouelhoda, Kurtz and Ohlebusch, 2004, over
prompts in place of suffixes). The memory beside the prompts is a few numbers per prompt and per
node.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.request import Prompts
from batchpipe.planner.tree.prompt_sort import sort_prompts

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PrefixTree:
    """Which tokens are shared by whom.

    Only tokens shared by two or more prompts make a node; what a prompt has alone hangs below as
    its tail. Every prompt keeps at least its last token as tail, even where others share it: that
    token must be computed to get the prompt's logits.

    A prompt's *rank* is its place in the lexicographic order of token ids. Nodes stand in preorder:
    a parent before its children, children by rank. The children of a node differ in their first
    token; a tail may begin like a sibling only where one of the two is a one-token tail.
    """

    order: Int32s  # [prompts] prompt index at each rank; equal prompts by index
    parent: Int32s  # [nodes] -1: below the root, which is no node itself
    start: Int32s  # [nodes] the node holds token_ids[start:end] of any prompt below it
    end: Int32s  # [nodes]
    first: Int32s  # [nodes] the ranks below the node are first:last
    last: Int32s  # [nodes]
    tail_node: Int32s  # [prompts] by rank: the node that the tail hangs below, -1 for the root
    tail_start: Int32s  # [prompts] by rank: first token position of the tail
    prompt_tokens: int  # every prompt counted as if alone
    distinct_tokens: int  # the full trie: a duplicate or a prefix of another prompt adds none

    @property
    def shareable_tokens(self) -> int:
        """Prompt tokens that some other prompt also has: the upper bound of all reuse."""
        return self.prompt_tokens - self.distinct_tokens

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that an engine with endless memory computes: each node once, each tail."""
        tail_tokens = self.prompt_tokens - int(self.tail_start.sum(dtype=np.int64))
        return tail_tokens + int((self.end - self.start).sum(dtype=np.int64))

    def path(self, rank: int) -> list[int]:
        """The nodes that hold the prompt's tokens before its tail, root first."""
        return self.branch(int(self.tail_node[rank]))

    def branch(self, node: int) -> list[int]:
        """The nodes from below the root down to this one, itself included; none for -1."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = int(self.parent[node])
        return nodes[::-1]

    def depth(self) -> Int32s:  # [nodes]
        """How many ancestors each node has; 0 below the root. Counted anew at each call."""
        depths = array("i")
        for parent in self.parent.data:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return np.array(depths, dtype=np.int32)


def build(prompts: Prompts) -> PrefixTree:
    """The tree holds every prompt; each must have one token or more.

    Takes O(tokens) time beside sorting numbers, and copies no tokens.
    """
    lengths = prompts.lengths
    assert (lengths > 0).all(), f"prompt {int(lengths.argmin())} has no tokens"
    order, common = sort_prompts(prompts)
    lengths = lengths[order]
    # A prompt keeps its last token, so a node may end one token before the shorter prompt's end.
    # This is the common prefix of the two prompts without their last tokens, and like the plain one
    # it is, for ranks further apart, the minimum over the neighbours between: a prompt that sorts
    # between two others and is itself no longer than what they share must equal the first of them.
    shared = np.zeros(len(order) + 1, dtype=np.int32)  # [rank]: with rank - 1; 0 at both ends
    shared[1:-1] = np.minimum(common, np.minimum(lengths[:-1], lengths[1:]) - 1)
    parent, end, first, last, node_between = _nodes(shared)
    start = np.where(parent >= 0, end[parent], 0) if len(parent) else parent
    deeper_above = shared[:-1] >= shared[1:]
    return PrefixTree(
        order=order,
        parent=parent,
        start=start.astype(np.int32),
        end=end,
        first=first,
        last=last,
        tail_node=np.where(deeper_above, node_between[:-1], node_between[1:]),
        tail_start=np.maximum(shared[:-1], shared[1:]),
        prompt_tokens=int(lengths.sum()),
        distinct_tokens=int(lengths.sum() - common.sum()),
    )


def _nodes(shared: Int32s) -> tuple[Int32s, Int32s, Int32s, Int32s, Int32s]:
    """Parent, end, first and last of each node in preorder, and the node at each boundary of ranks.

    ``shared[rank]`` counts the tokens that a node may hold for both rank - 1 and rank. The stack
    has the nodes still open at a rank, outermost first. A node is closed by the first rank that
    shares less, and only then is its parent known: the node of that lesser depth may be new.
    """
    parent, end, first, last = array("i"), array("i"), array("i"), array("i")
    node_between = array("i")
    open_nodes: list[int] = []
    open_end = 0  # of the innermost open node
    for rank, depth in enumerate(shared.data):
        begin, child = rank - 1, -1
        while open_end > depth:
            child = open_nodes.pop()
            begin, last[child] = first[child], rank
            open_end = end[open_nodes[-1]] if open_nodes else 0
            parent[child] = open_nodes[-1] if open_nodes else -1
        if depth > open_end:
            if child >= 0:
                parent[child] = len(end)
            open_nodes.append(len(end))
            open_end = depth
            parent.append(-1)
            end.append(depth)
            first.append(begin)
            last.append(-1)
        node_between.append(open_nodes[-1] if open_nodes else -1)
    return _in_preorder(*(np.array(c, np.int32) for c in (parent, end, first, last, node_between)))


def _in_preorder(
    parent: Int32s, end: Int32s, first: Int32s, last: Int32s, node_between: Int32s
) -> tuple[Int32s, Int32s, Int32s, Int32s, Int32s]:
    """The same nodes by first rank, and of those that begin together the outermost first."""
    old = np.lexsort((end, first))
    new = np.full(len(old) + 1, -1, dtype=np.int32)  # the last entry is for -1, the root
    new[old] = np.arange(len(old), dtype=np.int32)
    return new[parent[old]], end[old], first[old], last[old], new[node_between]
