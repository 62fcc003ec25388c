"""The frozen plan: which prompts are computed, which rows each answers, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from batchpipe.planner.duplicates import collapse
from batchpipe.planner.lengths import FIRST_GUESS_TOKENS
from batchpipe.planner.order import ORDERS
from batchpipe.planner.prefix_tree import PrefixTree, build
from batchpipe.planner.request import Prompts, Sampling

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
    order: Indices  # prompts in order of admission  # [prompts]
    order_name: str
    row_prompt_tokens: int  # every row as if alone

    @cached_property
    def rank_of(self) -> Indices:
        """Rank of each prompt in the tree."""
        rank_of = np.empty(len(self.prompts), dtype=np.int32)
        rank_of[self.tree.order] = np.arange(len(self.prompts), dtype=np.int32)
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

    def exact_lengths(self, index: int) -> bool:
        """True where nothing but ``max_tokens`` ends this answer."""
        sampling = self.samplings[index]
        return sampling.ignore_eos and not sampling.stop and not sampling.stop_token_ids


def make_plan(prompts: Prompts, samplings: Sequence[Sampling], *, order: str = "planned") -> Plan:
    """The plan of these rows: duplicates collapsed, the tree built, the order chosen.

    Args:
        prompts: one prompt per row, none empty
        samplings: how each row draws its answer  # [rows]
        order: a name in `ORDERS`
    """
    duplicates = collapse(prompts, samplings)
    copies = np.fromiter((samplings[row].n for row in duplicates.kept.tolist()), np.int64)
    first_of_kept = np.concatenate([[0], np.cumsum(copies)]).astype(np.int32)
    first_row = np.repeat(duplicates.kept, copies).astype(np.int32)
    sample = np.arange(len(first_row), dtype=np.int32) - np.repeat(first_of_kept[:-1], copies)
    planned_prompts = prompts.take(first_row)
    planned_samplings = tuple(samplings[row] for row in first_row.tolist())
    tree = build(planned_prompts)
    outputs = expected_outputs(planned_samplings)
    return Plan(
        prompts=planned_prompts,
        samplings=planned_samplings,
        sample=sample.astype(np.int32),
        first_prompt=first_of_kept[:-1][duplicates.answered_by],
        first_row=first_row,
        tree=tree,
        order=ORDERS[order](tree, planned_prompts.lengths, outputs),
        order_name=order,
        row_prompt_tokens=prompts.tokens,
    )


def expected_outputs(samplings: Sequence[Sampling]) -> npt.NDArray[np.int64]:  # [prompts]
    """Output tokens to plan with before anything has run."""
    return np.fromiter(
        (
            s.max_tokens if s.ignore_eos else min(s.max_tokens, FIRST_GUESS_TOKENS)
            for s in samplings
        ),
        np.int64,
        len(samplings),
    )
