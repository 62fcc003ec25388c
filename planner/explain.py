"""A plan as a person reads it: what is shared by whom, and which requests compute or read most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from batchpipe.planner.job_cost import JobCost, Seconds
from batchpipe.planner.plan import Plan
from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.widest import saved_tokens, widest_nodes

WIDEST_NODES = 12  # that many nodes are shown, with everything above them
LEAST_SHARE = 1e-3  # of all savings: a node that saves less is not shown for itself
MOST_BINS = 10
BAR_CHARACTERS = 30

Excerpt = Callable[[int, int, int], str]  # (prompt, start, end) -> the tokens as text


def explain_tree(plan: Plan, excerpt: Excerpt) -> str:
    """The nodes that save most, as an indented tree.

    A node saves its tokens times the prompts below it, but one: ``(end - start) * (below - 1)``.
    """
    tree = plan.tree
    saved = saved_tokens(tree)
    shown = widest_nodes(tree, WIDEST_NODES, least_share=LEAST_SHARE)
    depths: list[int] = []
    lines = [f"{len(plan.prompts):,} prompts"]
    for each in shown:
        depths.append(depths[each.above] + 1 if each.above >= 0 else 0)
        text = excerpt(int(tree.order[each.first]), each.start, each.end)
        lines.append(
            f"{'   ' * depths[-1]}└─ {each.end - each.start:,} tokens x "
            f"{each.last - each.first:,} prompts, saves {each.saved_tokens:,}: {text}"
        )
    hidden = len(saved) - len(shown)
    if hidden:
        rest = int(saved.sum()) - sum(each.saved_tokens for each in shown)
        lines.append(f"and {hidden:,} smaller nodes, which save {rest:,}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class DensityBin:
    """Requests whose compute over memory time is in ``low : high``, both powers of two."""

    low: float
    high: float
    requests: int
    time_share: float  # of the compute and memory time of all requests


def density_bins(tree: PrefixTree, cost: JobCost) -> tuple[DensityBin, ...]:
    """Every request is in one bin; all bins between the lowest and the highest are there.

    The computing of a shared node is spread evenly over the requests below it, so that the times of
    all requests add up to the job's.
    """
    if not len(tree.order):
        return ()
    compute = request_compute(tree, cost)
    time = compute + cost.memory
    exponent = np.floor(np.log2(compute / cost.memory)).astype(np.int64)
    width = 1
    while int(exponent.max() // width - exponent.min() // width) >= MOST_BINS:
        width *= 2
    place = exponent // width  # 1 stays a border, for no bin holds exponents of both signs
    first = int(place.min())
    counts = np.bincount(place - first)
    shares = np.bincount(place - first, weights=time) / time.sum()
    return tuple(
        DensityBin(2.0 ** (at * width), 2.0 ** ((at + 1) * width), count, share)
        for at, (count, share) in enumerate(
            zip(counts.tolist(), shares.tolist(), strict=True), first
        )
    )


def request_compute(tree: PrefixTree, cost: JobCost) -> Seconds:  # [prompts]
    """The compute time of each request with its part of the shared nodes."""
    part = cost.node_compute / (tree.last - tree.first)
    changes = np.zeros(len(tree.order) + 1)  # of the shared part, from rank to rank
    np.add.at(changes, tree.first, part)
    np.subtract.at(changes, tree.last, part)
    compute = cost.compute.copy()
    # Adding and taking away again may leave a rounding error below nothing.
    compute[tree.order] += np.maximum(np.cumsum(changes[:-1]), 0.0)
    return compute


def explain_density(bins: Sequence[DensityBin]) -> str:
    """The bins as a histogram by share of time, most compute-bound first."""
    lines = ["density of requests: compute over memory time, how many, their share of the time"]
    for each in reversed(bins):
        bar = "█" * round(BAR_CHARACTERS * each.time_share) or ("▏" if each.requests else "")
        side = "compute-bound" if each.low >= 1 else "memory-bound"
        between = f"{_power(each.low)} to {_power(each.high)}"
        counts = f"{each.requests:>9,}  {each.time_share:>6.1%}"
        lines.append(f"  {between:>14}  {side:<13}  {counts}  {bar}".rstrip())
    return "\n".join(lines)


def _power(value: float) -> str:
    """A power of two as a person writes it: ``1/8`` or ``16``."""
    return f"{value:,.0f}" if value >= 1 else f"1/{1 / value:,.0f}"
