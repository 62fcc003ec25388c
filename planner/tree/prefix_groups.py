"""One-level prefix groups, for orders and for backends that can share only one level."""

from __future__ import annotations

import numpy as np

from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.siblings import Parts, parents


def enlarged_groups(tree: PrefixTree) -> Parts:
    """What each part hangs below when groups share one prefix only, made as long as it pays.

    BatchLLM's first-level prefix enlarging (``MaximizeReuse``), from the leaves up: grandchild g
    becomes a group of its own, with the child's tokens before its own, where that saves tokens,
    ``(leaves(g) - 1) len(g) - len(child) > 0``. A child's only branch left is one prefix with it.
    """
    above = tree.parent.tolist()
    tokens = (tree.end - tree.start).tolist()  # of the node's prefix behind its parent's
    leaves = (tree.last - tree.first).tolist()
    children: list[list[int]] = [[] for _ in above]
    for node, parent in enumerate(above):
        if parent >= 0:
            children[parent].append(node)
    for child in range(len(above) - 1, -1, -1):  # children before parents
        kept = []
        for grandchild in children[child]:
            alone = leaves[grandchild] == leaves[child]  # then the child's prefix goes on in it
            if not alone and (leaves[grandchild] - 1) * tokens[grandchild] > tokens[child]:
                tokens[grandchild] += tokens[child]
                leaves[child] -= leaves[grandchild]
                above[grandchild] = above[child]
                if above[child] >= 0:
                    children[above[child]].append(grandchild)
            else:
                kept.append(grandchild)
        children[child] = kept
        for grandchild in kept:
            if leaves[grandchild] == leaves[child]:
                tokens[child] += tokens[grandchild]
    return Parts(np.array(above, dtype=np.int32), parents(tree).tail)
