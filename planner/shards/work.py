"""What runs of neighbouring prompts cost: each from two sums, whatever its length.

Neighbours in the tree's order share most, so a shard is a half-open range of ranks, and a border
between two shards costs the nodes that lie on both sides of it. Knows nothing of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.order import Order, Ordering
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting
from batchpipe.planner.tree.prefix_tree import PrefixTree

Amounts = npt.NDArray[Any]  # seconds as float64, or tokens as int64
Int32s = npt.NDArray[np.int32]
Range = tuple[int, int]  # ranks first:last


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """One measure of prompts and nodes, summed up along the ranks; entry ``r`` is of the border
    before rank ``r``."""

    alone: Amounts  # of the prompts' own parts before the border  # [prompts + 1]
    begun: Amounts  # of the nodes that begin before it  # [prompts + 1]
    ended: Amounts  # of the nodes that end before it  # [prompts + 1]

    @classmethod
    def over(cls, tree: PrefixTree, alone: Amounts, node: Amounts) -> Sums:
        """Sums of what each rank has alone and of each node, counted once.  # [prompts], [nodes]"""
        prompts = len(tree.order)
        begins, ends = np.zeros((2, prompts + 1), dtype=node.dtype)
        np.add.at(begins, tree.first + 1, node)
        np.add.at(ends, tree.last, node)
        own = np.append(np.zeros(1, dtype=alone.dtype), alone)
        return cls(np.cumsum(own), np.cumsum(begins), np.cumsum(ends))

    def of(self, first: int, last: int) -> float:
        """Of the prompts at ranks ``first:last`` with every node above them, each once."""
        if first >= last:
            return 0
        own = self.alone[last] - self.alone[first]
        return (own + self.begun[last] - self.ended[first]).item()  # type: ignore[no-any-return]

    def added(self, first: int, last: int) -> float:
        """The same without the nodes that the prompt before ``first`` already has."""
        own = self.alone[last] - self.alone[first]
        return (own + self.begun[last] - self.begun[first]).item()  # type: ignore[no-any-return]

    def each(self) -> Amounts:  # [prompts]
        """Of every prompt with every node above it."""
        return np.diff(self.alone) + self.begun[1:] - self.ended[:-1]

    def crossing(self) -> Amounts:  # [prompts + 1]
        """The nodes on both sides of each border: what a cut there makes double."""
        return self.begun - self.ended


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A plan's prompts in the tree's order, with what ranges of them cost.

    Seconds are those of `JobCost`, one after the other: computing each distinct token once, reading
    a prompt's own keys for each of its decodes, and a node's once a step for all below it.
    """

    tree: PrefixTree
    place: Int32s  # of each rank in the plan's order  # [prompts]
    seconds: Sums
    node_seconds: Amounts  # of each node once  # [nodes]
    longest_seconds: float  # of the heaviest prompt alone, which no cut makes lighter
    tokens: Sums  # of prompts, to be computed
    crossing_seconds: npt.NDArray[np.float64]  # of the nodes on both sides  # [prompts + 1]
    crossing_tokens: npt.NDArray[np.int64]  # [prompts + 1]

    def __len__(self) -> int:
        return len(self.tree.order)

    @property
    def total_seconds(self) -> float:
        """Of one worker that does everything."""
        return self.seconds.of(0, len(self))

    def bound_seconds(self, workers: int) -> float:
        """No division over equal workers ends sooner: an equal part, or the heaviest prompt."""
        return max(self.total_seconds / workers, self.longest_seconds)

    def prompts(self, first: int, last: int) -> Int32s:
        """The prompts at these ranks in the plan's order, as indices into the plan."""
        ranks = first + np.argsort(self.place[first:last], kind="stable")
        return self.tree.order[ranks].astype(np.int32)

    def common_seconds(self, one: Range, other: Range) -> float:
        """Of the nodes that two ranges without a rank in common both need."""
        return float(self.crossing_seconds[self._narrowest(one, other)])

    def common_tokens(self, one: Range, other: Range) -> int:
        """The prompt tokens that two ranges without a rank in common both need."""
        return int(self.crossing_tokens[self._narrowest(one, other)])

    def _narrowest(self, one: Range, other: Range) -> int:
        """The border between two ranges that the fewest tokens cross: those that cross all."""
        before, after = min(one, other), max(one, other)
        return before[1] + int(self.crossing_tokens[before[1] : after[0] + 1].argmin())

    def together_seconds(self, ranges: Sequence[Range]) -> float:
        """Of one worker that does these ranges in order of rank, each node once."""
        alone = sum(self.seconds.of(*each) for each in ranges)
        return alone - sum(self.common_seconds(*pair) for pair in pairwise(sorted(ranges)))

    def together_tokens(self, ranges: Sequence[Range]) -> int:
        """Prompt tokens that one worker computes for these ranges."""
        alone = sum(int(self.tokens.of(*each)) for each in ranges)
        return alone - sum(self.common_tokens(*pair) for pair in pairwise(sorted(ranges)))


def work_of(plan: Plan, setting: Setting | None) -> Work:
    """The work of a plan, with its expected answers; relative seconds without a setting."""
    if setting is None:
        return measured(plan.ordering(None), plan.order)
    return measured(
        plan.ordering(setting.cost),
        plan.order,
        pair_seconds=setting.cost.pair_seconds,
        steps_share=_steps_share(setting),
    )


def _steps_share(setting: Setting) -> float:
    """Seconds of a decoding step over those of its keys, where they fill the memory.

    A step reads the weights and has fixed costs, whatever it decodes; with full memory that is
    spread over as many keys as there are.
    """
    cost = setting.cost
    keys_seconds = setting.kv_blocks * BLOCK_TOKENS * cost.key_seconds
    return 1 + (cost.fixed_seconds + cost.weights_seconds(1)) / keys_seconds


def measured(
    job: Ordering, order: Order, *, pair_seconds: float = 0.0, steps_share: float = 1.0
) -> Work:
    """The work of these prompts, admitted in this order.

    Args:
        pair_seconds: of a decode against one key that others read too
        steps_share: of a decoding step over the reading of its keys
    """
    tree, cost = job.tree, job.cost
    compute, answers = cost.compute[tree.order], job.output_tokens[tree.order]
    own_seconds = compute + steps_share * cost.own_memory[tree.order]
    own_seconds = own_seconds + pair_seconds * tree.tail_start.astype(np.int64) * answers
    node_seconds = cost.node_compute + steps_share * cost.node_memory
    above = Sums.over(tree, compute, cost.node_compute).each()
    seconds = Sums.over(tree, own_seconds, node_seconds)
    tails = job.prompt_tokens[tree.order] - tree.tail_start
    tokens = Sums.over(tree, tails, (tree.end - tree.start).astype(np.int64))
    crossing_tokens = tokens.crossing().astype(np.int64)
    place = np.empty(len(tree.order), dtype=np.int32)
    place[order.prompts] = np.arange(len(order.prompts), dtype=np.int32)
    return Work(
        tree=tree,
        place=place[tree.order],
        seconds=seconds,
        node_seconds=node_seconds,
        longest_seconds=float((above + steps_share * cost.memory[tree.order]).max(initial=0.0)),
        tokens=tokens,
        crossing_seconds=np.where(crossing_tokens > 0, seconds.crossing(), 0.0),  # none by rounding
        crossing_tokens=crossing_tokens,
    )
