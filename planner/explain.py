"""A plan as a person reads it: what is shared by whom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from batchpipe.planner.plan import Plan

WIDEST_NODES = 12  # that many nodes are shown, with everything above them

Excerpt = Callable[[int, int, int], str]  # (prompt, start, end) -> the tokens as text


def explain_tree(plan: Plan, excerpt: Excerpt) -> str:
    """The nodes that save most, as an indented tree.

    A node saves its tokens times the prompts below it, but one: ``(end - start) * (below - 1)``.
    """
    tree = plan.tree
    tokens = (tree.end - tree.start).astype(np.int64)
    below = (tree.last - tree.first).astype(np.int64)
    saved = tokens * (below - 1)
    depth = tree.depth()
    widest = np.argsort(-saved, kind="stable")[:WIDEST_NODES].tolist()
    shown = sorted({above for node in widest for above in tree.branch(node)})
    lines = [f"{len(plan.prompts):,} prompts"]
    for node in shown:
        text = excerpt(
            int(tree.order[tree.first[node]]), int(tree.start[node]), int(tree.end[node])
        )
        indent = "   " * int(depth[node])
        lines.append(
            f"{indent}└─ {tokens[node]:,} tokens x {below[node]:,} prompts, "
            f"saves {saved[node]:,}: {text}"
        )
    hidden = len(tokens) - len(shown)
    if hidden:
        rest = int(saved.sum() - saved[shown].sum())
        lines.append(f"and {hidden:,} smaller nodes, which save {rest:,}")
    return "\n".join(lines)
