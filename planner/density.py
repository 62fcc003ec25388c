"""Is a part of the tree compute-bound or memory-bound, and which parts go apart for that?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchpipe.planner.job_cost import JobCost
from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.siblings import Parts, parents, sums_below, units

KEPT_SHARING = 0.99  # of the shareable tokens, whatever is split
UNLIKE = 2.0  # a part goes apart where its parent is so many times denser


def density_of(tree: PrefixTree, cost: JobCost, parent: Parts | None = None) -> Parts:
    """``rho(R) = (1 - s) sum Comp / sum Mem`` of each node with all below it, and of each tail."""
    parent = parent or parents(tree)
    compute, memory = cost.compute[tree.order], cost.memory[tree.order]
    of_nodes = sums_below(parent, Parts(cost.node_compute, compute))[:-1]
    nothing = np.zeros(len(tree.parent))
    return Parts(
        _ratio(of_nodes, sums_below(parent, Parts(nothing, memory))[:-1]), _ratio(compute, memory)
    )


def split_units(tree: PrefixTree, cost: JobCost, density: Parts) -> Parts:
    """What each part hangs below once the memory-bound ones went apart to the root.

    BlendServe's conditional split (Algorithm 2), a child at a time. A part that is visited apart
    may find the prefix above it evicted, so it costs at most that prefix; those that move most
    memory time per token go first, while all together cost 1 % of the shareable tokens.
    """
    parent = parents(tree)
    above = np.concatenate([parent.node, parent.tail])
    below = np.flatnonzero(above >= 0)  # parts that can be split off
    if not len(below):
        return parent
    prefix_tokens = tree.end[above[below]].astype(np.int64)
    memory = np.concatenate(
        [
            sums_below(parent, Parts(np.zeros(len(tree.parent)), cost.memory[tree.order]))[:-1],
            cost.memory[tree.order],
        ]
    )
    own = np.concatenate([density.node, density.tail])[below]
    unlike = own * UNLIKE < density.node[above[below]]
    below, prefix_tokens = below[unlike], prefix_tokens[unlike]
    best_first = np.argsort(-memory[below] / prefix_tokens, kind="stable")
    affordable = (1 - KEPT_SHARING) * tree.shareable_tokens
    split = below[best_first][np.cumsum(prefix_tokens[best_first]) <= affordable]
    above = above.copy()
    above[split] = -1
    nodes = len(tree.parent)
    return Parts(above[:nodes], above[nodes:])


def unit_density(
    tree: PrefixTree, parent: Parts, density: Parts
) -> npt.NDArray[np.float64]:  # [prompts]
    """The density of the unit that each prompt belongs to."""
    unit = units(parent).tail
    by_prompt = np.empty(len(unit))
    by_prompt[tree.order] = np.concatenate([density.node, density.tail])[unit]
    return by_prompt


def _ratio(
    compute: npt.NDArray[np.float64], memory: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return compute / np.maximum(memory, 1e-30)
