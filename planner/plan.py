"""The frozen plan: which prompts are computed, which rows each answers, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from batchpipe.planner.job_cost import JobCost, job_cost
from batchpipe.planner.kv_ledger import blocks_for
from batchpipe.planner.lengths import OutputLengths
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import Order, Ordering
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.tree.prefix_tree import PrefixTree

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be computed, once each, and for whom.

    A *prompt* of the plan is one sequence to run. Equal deterministic rows are one prompt; a row
    with ``n`` samples is ``n`` prompts side by side, which share all but their last token.
    """

    prompts: Prompts
    samplings: tuple[Sampling, ...]  # [prompts]
    sample: Indices  # which of its row's n samples a prompt is  # [prompts]
    first_prompt: Indices  # the row's first prompt; its n - 1 others follow  # [rows]
    first_row: Indices  # the row that a prompt is named after  # [prompts]
    tree: PrefixTree
    groups: Indices  # of prompts that begin alike, whose answers are alike in length  # [prompts]
    group_keys: tuple[bytes, ...]  # their names, the same in another run  # [groups]
    history: Mapping[bytes, Sequence[int]]  # lengths of earlier answers, by group key
    output_tokens: npt.NDArray[np.int64]  # expected  # [prompts]
    order: Order
    order_name: str  # as asked for
    policy: str  # the order policy that made it: what `planned` chose
    row_prompt_tokens: int  # every row as if alone

    @cached_property
    def rank_of(self) -> Indices:
        """Rank of each prompt in the tree, -1 where a plan that has grown holds it no more."""
        rank_of = np.full(len(self.prompts), -1, dtype=np.int32)
        rank_of[self.tree.order] = np.arange(len(self.tree.order), dtype=np.int32)
        return rank_of

    @property
    def rows(self) -> int:
        """Rows that the plan answers."""
        return len(self.first_prompt)

    @property
    def duplicates(self) -> int:
        """Rows answered by another row's prompt."""
        return self.rows - len(np.unique(self.first_prompt))

    @property
    def shareable_prompt_tokens(self) -> int:
        """Upper bound of the prompt tokens that need no computing."""
        return self.row_prompt_tokens - self.tree.distinct_tokens

    def exact_length(self, index: int) -> bool:
        """True where nothing but ``max_tokens`` ends this answer."""
        return ends_at_limit(self.samplings[index])

    def new_lengths(self) -> OutputLengths:
        """What is known of answers before the first one."""
        known = {
            group: self.history[key]
            for group, key in enumerate(self.group_keys)
            if key in self.history
        }
        return OutputLengths(self.groups, known)

    def expected(self, lengths: OutputLengths) -> npt.NDArray[np.int64]:  # [prompts]
        """Output tokens to plan with, by what is known of answers."""
        count = len(self.samplings)
        # Where nothing is drawn, one token is counted for the step that completes the prompt.
        most = (max(1, sampling.max_tokens) for sampling in self.samplings)
        limits = np.fromiter(most, np.int64, count)
        exact = np.fromiter(map(ends_at_limit, self.samplings), np.bool_, count)
        return lengths.expected(limits, exact)

    def path_blocks(self, index: int) -> tuple[tuple[int, int], ...]:
        """Node and KV blocks of each shared segment of the prompt, root first."""
        tree = self.tree
        nodes = tree.path(int(self.rank_of[index]))
        return tuple((node, blocks_for(int(tree.end[node] - tree.start[node]))) for node in nodes)

    def cost(self, step: StepCost | None) -> JobCost:
        """Compute and memory time of its prompts, as far as their lengths are known."""
        return job_cost(self.tree, self.prompts.lengths, self.output_tokens, step)

    def ordering(self, step: StepCost | None) -> Ordering:
        """What an order policy may look at."""
        return Ordering(self.tree, self.prompts.lengths, self.output_tokens, self.cost(step))


def ends_at_limit(sampling: Sampling) -> bool:
    """True where nothing but ``max_tokens`` ends the answer."""
    return sampling.ignore_eos and not sampling.stop and not sampling.stop_token_ids
