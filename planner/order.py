"""In which order are the prompts admitted? Policies are data: a name and a function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from batchpipe.planner.prefix_tree import PrefixTree

Lengths = npt.NDArray[np.int64]
Order = npt.NDArray[np.int32]
OrderPolicy = Callable[[PrefixTree, Lengths, Lengths], Order]


def input_order(tree: PrefixTree, prompt_lengths: Lengths, output_lengths: Lengths) -> Order:
    """The rows as they came: the baseline that shares only what happens to be near."""
    return np.arange(len(tree.order), dtype=np.int32)


def depth_first(tree: PrefixTree, prompt_lengths: Lengths, output_lengths: Lengths) -> Order:
    """Lexicographic order of the prompts: each shared node's KV lives once and shortest."""
    return tree.order.astype(np.int32)


def decode_first(tree: PrefixTree, prompt_lengths: Lengths, output_lengths: Lengths) -> Order:
    """First-level groups by descending output over prompt tokens, depth-first inside each.

    BatchLLM's ``R_group``: answers that take long start early, and later prefills fill the steps
    that they leave thin.
    """
    return _sorted_siblings(tree, prompt_lengths, output_lengths, levels=1)


def planned(tree: PrefixTree, prompt_lengths: Lengths, output_lengths: Lengths) -> Order:
    """Depth-first with the siblings of every level by descending output over prompt tokens.

    BlendServe's layer-wise sort (Algorithm 1) seen from the memory-bound end: sharing stays whole,
    and no long answer is left to run alone at the end.
    """
    return _sorted_siblings(tree, prompt_lengths, output_lengths, levels=None)


ORDERS: dict[str, OrderPolicy] = {
    "planned": planned,
    "dfs": depth_first,
    "input": input_order,
    "decode-first": decode_first,
}


def _sorted_siblings(
    tree: PrefixTree, prompt_lengths: Lengths, output_lengths: Lengths, levels: int | None
) -> Order:
    """A depth-first order whose siblings, on the first ``levels`` levels, fall in decode ratio."""
    ranks = len(tree.order)
    outputs = np.concatenate([[0], np.cumsum(output_lengths[tree.order])])
    prompts = np.concatenate([[0], np.cumsum(prompt_lengths[tree.order])])

    def ratio(first: int, last: int) -> float:
        return float(outputs[last] - outputs[first]) / float(prompts[last] - prompts[first])

    children: dict[int, list[tuple[int, int, int]]] = {}  # node -> (first, last, node or -1)
    bounds = zip(tree.parent.tolist(), tree.first.tolist(), tree.last.tolist(), strict=True)
    for node, (parent, first, last) in enumerate(bounds):
        children.setdefault(parent, []).append((first, last, node))
    for rank, parent in enumerate(tree.tail_node.tolist()):
        children.setdefault(parent, []).append((rank, rank + 1, -1))

    ordered: list[int] = []
    waiting = [(0, ranks, -1, 0)] if ranks else []
    root = True
    while waiting:
        first, last, node, level = waiting.pop()
        if node == -1 and not root:
            ordered.append(first)
            continue
        if levels is not None and level >= levels:
            ordered.extend(range(first, last))
            continue
        # Ties keep their place, so the order is the same for the same input. Popped from the end.
        siblings = sorted(children[node], key=lambda span: (-ratio(span[0], span[1]), span[0]))
        waiting.extend((*span, level + 1) for span in reversed(siblings))
        root = False
    return tree.order[np.asarray(ordered, dtype=np.int64)].astype(np.int32)
