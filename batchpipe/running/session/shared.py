"""What a plan's prompts share, in as few figures as a picture needs."""

from __future__ import annotations

import numpy as np

from batchpipe.planner.explain import Excerpt
from batchpipe.planner.plan import Plan
from batchpipe.planner.tree.widest import widest_nodes
from batchpipe.running.session.record import Shared

MOST_NODES = 150  # beside those above them, of which there may be 3 times as many
LEAST_SHARE = 2e-4  # of all savings
MOST_MEANS = 200


def widest_shared(plan: Plan, excerpt: Excerpt) -> tuple[Shared, ...]:
    """The nodes of the prefix tree that save most, with all that stand above them."""
    wide = widest_nodes(plan.tree, MOST_NODES, least_share=LEAST_SHARE)
    most = MOST_NODES
    while len(wide) > 4 * MOST_NODES:  # long chains of nodes stand above them
        most //= 2
        wide = widest_nodes(plan.tree, most, least_share=LEAST_SHARE)
    return tuple(
        Shared(
            each.above,
            each.start,
            each.end,
            each.first,
            each.last,
            excerpt(int(plan.tree.order[each.first]), each.start, each.end),
        )
        for each in wide
    )


def mean_tokens(plan: Plan) -> tuple[int, ...]:
    """Mean lengths of prompts, of neighbours by rank: the outline of the tree's picture."""
    lengths = plan.prompts.lengths[plan.tree.order]
    if not len(lengths):
        return ()
    pieces = np.array_split(lengths, min(MOST_MEANS, len(lengths)))
    return tuple(round(float(piece.mean())) for piece in pieces)
