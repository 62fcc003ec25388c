"""In which order are the prompts admitted? Policies are data: a name and a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from batchpipe.planner.density import density_of, split_units, unit_density
from batchpipe.planner.job_cost import JobCost
from batchpipe.planner.tree.prefix_groups import enlarged_groups
from batchpipe.planner.tree.prefix_tree import PrefixTree
from batchpipe.planner.tree.siblings import Parts, parents, sorted_order, sums_below

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """The prompts as they will be admitted.

    With a density it is read from both ends: the front gives compute-bound prompts, the back
    memory-bound ones. It is that of the unit at each place, and never rises, save to a pilot
    that a `Replanner` puts at the back. Those from the back begin in ``waves``, see `Partition`.
    """

    prompts: npt.NDArray[np.int32]  # [prompts]
    density: npt.NDArray[np.float64] | None = None  # [prompts] by place
    waves: int = 1

    @property
    def from_both_ends(self) -> bool:
        """True where the dual scanner reads it."""
        return self.density is not None

    def equals(self, other: Order) -> bool:
        """True where both admit the same prompts at the same time."""
        if self.waves != other.waves or not np.array_equal(self.prompts, other.prompts):
            return False
        if self.density is None or other.density is None:
            return self.density is other.density
        return np.array_equal(self.density, other.density)

    def only(self, waiting: npt.NDArray[np.bool_]) -> Order:
        """The same order without the prompts that wait no more (``waiting`` is by prompt)."""
        kept = waiting[self.prompts]
        density = None if self.density is None else self.density[kept]
        return Order(self.prompts[kept], density, self.waves)


@dataclass(frozen=True, slots=True, eq=False)
class Ordering:
    """What a policy may look at."""

    tree: PrefixTree
    prompt_tokens: Lengths  # [prompts]
    output_tokens: Lengths  # expected  # [prompts]
    cost: JobCost


OrderPolicy = Callable[[Ordering], Order]


def input_order(job: Ordering) -> Order:
    """The rows as they came: the baseline that shares only what happens to be near."""
    return Order(np.arange(len(job.tree.order), dtype=np.int32))


def depth_first(job: Ordering) -> Order:
    """Lexicographic order of the prompts: each shared node's KV lives once and shortest."""
    return Order(job.tree.order.astype(np.int32))


def decode_first(job: Ordering) -> Order:
    """Groups with one common prefix by descending output over prompt tokens.

    BatchLLM's ``R_group`` over its enlarged first-level prefixes: answers that take long start
    early, and later prefills fill the steps that they leave thin.
    """
    parent = enlarged_groups(job.tree)
    ratio = _output_ratio(job, parent)
    key = Parts(
        np.where(parent.node < 0, -ratio.node, 0.0), np.where(parent.tail < 0, -ratio.tail, 0.0)
    )
    return Order(sorted_order(job.tree, parent, key))


def longest_first(job: Ordering) -> Order:
    """Depth-first with the siblings of every level by descending output over prompt tokens.

    BlendServe's layer-wise sort (Algorithm 1) seen from the memory-bound end: sharing stays whole,
    and no long answer is left to run alone at the end.
    """
    parent = parents(job.tree)
    ratio = _output_ratio(job, parent)
    return Order(sorted_order(job.tree, parent, Parts(-ratio.node, -ratio.tail)))


def balanced(job: Ordering, waves: int = 1) -> Order:
    """Units of falling density, to be read from both ends (BlendServe, Algorithms 1 to 3).

    Siblings are sorted by density on every level, and subtrees whose parts differ are split while
    99 % of the sharing is kept.
    """
    parent = split_units(job.tree, job.cost, density_of(job.tree, job.cost))
    density = density_of(job.tree, job.cost, parent)
    prompts = sorted_order(job.tree, parent, Parts(-density.node, -density.tail))
    return Order(prompts, unit_density(job.tree, parent, density)[prompts], waves)


# What a user may ask for by name, and what `planned` chooses from by simulating each.
POLICIES: dict[str, OrderPolicy] = {
    "dfs": depth_first,
    "input": input_order,
    "decode-first": decode_first,
    "longest-first": longest_first,
    "balanced": balanced,
    "balanced-2": partial(balanced, waves=2),
    "balanced-3": partial(balanced, waves=3),
}
CANDIDATES = (
    "longest-first",
    "dfs",
    "decode-first",
    "input",
    "balanced",
    "balanced-2",
    "balanced-3",
)
ORDERS = ("planned", "dfs", "input", "decode-first")


def _output_ratio(job: Ordering, parent: Parts) -> Parts:
    """Output over prompt tokens of each node with all below it, and of each tail."""
    order = job.tree.order
    outputs = job.output_tokens[order].astype(np.float64)
    prompts = job.prompt_tokens[order].astype(np.float64)
    nothing = np.zeros(len(job.tree.parent))
    written = sums_below(parent, Parts(nothing, outputs))[:-1]
    read = sums_below(parent, Parts(nothing, prompts))[:-1]
    return Parts(written / np.maximum(read, 1), outputs / prompts)
