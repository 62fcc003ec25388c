"""Compute and memory time of every request and of a whole job: BlendServe's Comp and Mem."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.tree.prefix_tree import PrefixTree

Seconds = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class JobCost:
    """Compute and memory time of every request and tree node, BlendServe's Comp and Mem.

    ``Comp(r) = (p + d) t_token + (p^2 / 2) t_pair`` for the tokens that the request computes alone,
    ``Mem(r) = (p d + d^2 / 2) t_key``. A shared node's tokens are computed once, on nobody's
    account, and with attention over shared prefixes its keys are read once for all prompts below it
    that decode together.
    """

    compute: Seconds  # of what a prompt computes alone  # [prompts]
    memory: Seconds  # of its decodes, all keys read  # [prompts]
    own_memory: Seconds  # of that, the keys that it has alone  # [prompts]
    node_compute: Seconds  # of a node's own tokens  # [nodes]
    node_memory: Seconds  # of its keys, once a step while all below it decode together  # [nodes]

    def of(self, some: npt.NDArray[np.bool_]) -> JobCost:
        """The cost of some of the prompts, with as large a part of the shared nodes."""
        return JobCost(
            compute=np.where(some, self.compute, 0.0),
            memory=np.where(some, self.memory, 0.0),
            own_memory=np.where(some, self.own_memory, 0.0),
            node_compute=self.node_compute * some.mean(),
            node_memory=self.node_memory * some.mean(),
        )

    @property
    def compute_seconds(self) -> float:
        """``(1 - s) T_comp``: every shared token computed once."""
        return float(self.compute.sum() + self.node_compute.sum())

    @property
    def memory_seconds(self) -> float:
        """``T_mem``: every decode reads its whole context."""
        return float(self.memory.sum())

    @property
    def saved_seconds(self) -> float:
        """The most that attention over shared prefixes spares of ``T_mem``."""
        return float(self.memory.sum() - self.own_memory.sum() - self.node_memory.sum())

    @property
    def bound_seconds(self) -> float:
        """``T_o = max((1 - s) T_comp, T_mem)``: nothing that reads all keys can be faster."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def density(self) -> float:
        """``(1 - s) T_comp / T_mem`` of the whole job; above 1 it is compute-bound."""
        return self.compute_seconds / self.memory_seconds if self.memory_seconds else np.inf


def job_cost(
    tree: PrefixTree,
    prompt_tokens: Counts,  # [prompts]
    output_tokens: Counts,  # [prompts]
    cost: StepCost | None,
) -> JobCost:
    """The cost of these requests below this tree.

    Without a ``cost`` seconds are relative: a key's reading counts a thousandth of a row's linear
    layers, as 16-bit models of some billion parameters have it on data-center GPUs.
    """
    token, head, pair, key = (1.0, 0.0, 0.0, 1e-3)
    if cost is not None:
        token, head = cost.token_seconds, cost.head_seconds
        pair, key = cost.pair_seconds, cost.key_seconds
    tail_start = np.empty(len(prompt_tokens), dtype=np.int64)
    tail_start[tree.order] = tree.tail_start
    tails = prompt_tokens - tail_start
    tail_pairs = (prompt_tokens**2 - tail_start**2) / 2
    compute = (tails + output_tokens) * token + output_tokens * head + tail_pairs * pair
    start, end = tree.start.astype(np.int64), tree.end.astype(np.int64)
    longest = _longest(output_tokens[tree.order], tree)
    return JobCost(
        compute=compute,
        memory=(prompt_tokens * output_tokens + output_tokens**2 / 2) * key,
        own_memory=(tails * output_tokens + output_tokens**2 / 2) * key,
        node_compute=(end - start) * token + (end**2 - start**2) / 2 * pair,
        node_memory=((end - start) * longest).astype(np.float64) * key,
    )


def _longest(outputs_by_rank: Counts, tree: PrefixTree) -> Counts:  # [nodes]
    """The longest answer below each node: as many steps read it at least."""
    longest = np.zeros(len(tree.parent) + 1, dtype=np.int64)  # the last stands for the root
    np.maximum.at(longest, tree.tail_node, outputs_by_rank)
    found = longest.tolist()
    for node in range(len(tree.parent) - 1, -1, -1):
        parent = tree.parent[node]
        if found[node] > found[parent]:
            found[parent] = found[node]
    return np.array(found[:-1], dtype=np.int64)
