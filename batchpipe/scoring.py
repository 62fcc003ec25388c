"""How likely a model finds given continuations of given prompts, and which of some labels.

Nothing is drawn: each prompt with its continuation is a row that is only scored. All of them are
one plan, so that a prompt with several continuations is computed once.

Example:
    answer = partial(answer_rows, model, shape, kv_blocks=1000)
    [found] = score(answer, [[5, 6, 7]], [[8, 9]])
    found.logprob  # of 8, 9 behind 5, 6, 7
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.engine.answer import Answer
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full

STEP_TOKENS = 1024

TokenIds = Sequence[int]

# One answer a row, in their order; each row has a way to be sampled.
AnswerRows = Callable[[Prompts, Sequence[Sampling]], Sequence[Answer]]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How likely one continuation is behind its prompt, by the model's raw distribution."""

    logprobs: npt.NDArray[np.float32]  # of each of its tokens  # [tokens]
    ranks: npt.NDArray[np.int32]  # 1 where no token is likelier  # [tokens]

    @property
    def logprob(self) -> float:
        """Of the whole continuation."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def greedy(self) -> bool:
        """True where greedy decoding would say just this, near ties aside."""
        return bool((self.ranks == 1).all())


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """How likely each of some labels is, given that it is one of them."""

    probabilities: npt.NDArray[np.float64]  # [labels]

    @property
    def best(self) -> int:
        """The likeliest label, the first of equals."""
        return int(self.probabilities.argmax())

    @property
    def margin(self) -> float:
        """By how much its probability is more than the second's; 1 of a single label."""
        second, first = np.append(0.0, np.sort(self.probabilities))[-2:]
        return float(first - second)


def score(
    answer: AnswerRows, prompts: Sequence[TokenIds], continuations: Sequence[TokenIds]
) -> list[Score]:
    """The score of each continuation behind the prompt in its place.

    An empty continuation has the logprob 0: nothing follows in any case.

    Raises:
        ValueError: a prompt is empty, or there are not as many of both; or the model's scores are
            no numbers
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts and {len(continuations)} continuations")
    for place, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {place} has no tokens, and nothing follows nothing")
    rows = [[*prompt, *more] for prompt, more in zip(prompts, continuations, strict=True)]
    samplings = [
        Sampling(max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=len(prompt))
        for prompt in prompts
    ]
    scores: list[Score] = []
    for place, each in enumerate(answer(Prompts.pack(rows), samplings)):
        found = each.prompt_logprobs
        if found is None or not found.are_numbers:
            raise ValueError(f"prompt {place} cannot be scored: {each.fault or 'NaN'}")
        scores.append(Score(found.values, found.ranks))
    return scores


def choose(
    answer: AnswerRows,
    prompts: Sequence[TokenIds],
    labels: Sequence[TokenIds],
    *,
    end_token_id: int | None = None,
) -> list[Choice]:
    """How likely each label is behind each prompt: the softmax of the labels' logprobs.

    A label counts with all its tokens, so labels may begin alike. Where one label is the beginning
    of another, only its end tells them apart: then each is followed by ``end_token_id``.

    Raises:
        ValueError: there are no labels, one is empty or twice there, or one begins another and
            there is no ``end_token_id``
    """
    ends = _ended(labels, end_token_id)
    pairs = [(prompt, label) for prompt in prompts for label in ends]
    found = score(answer, [prompt for prompt, _ in pairs], [label for _, label in pairs])
    logprobs = np.array([each.logprob for each in found]).reshape(-1, len(ends))
    weights = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return [Choice(each / each.sum()) for each in weights]


def answer_rows(
    model: Any,
    shape: ModelShape,
    prompts: Prompts,
    samplings: Sequence[Sampling],
    *,
    kv_blocks: int,
    step_tokens: int = STEP_TOKENS,
) -> list[Answer]:
    """One answer a row by a loaded model, whose KV memory has room for the longest of them."""
    plan = make_plan(prompts, samplings)
    engine = Engine(
        bind(model, shape, kv_blocks),
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=frozenset(),
        request_ids=[str(row) for row in plan.first_row.tolist()],
    )
    found = {each.index: each for step in engine.steps() for each in step}
    return [found[first] for first in plan.first_prompt.tolist()]


def _ended(labels: Sequence[TokenIds], end_token_id: int | None) -> list[tuple[int, ...]]:
    """The labels as they are, or all with an end where one of them begins another."""
    ends = [tuple(label) for label in labels]
    if not all(ends) or not ends:
        raise ValueError("every label needs a token, and there must be labels")
    ordered = sorted(ends)
    for before, after in pairwise(ordered):  # whatever a label begins stands right behind it
        if before == after:
            raise ValueError(f"label {ends.index(before)} is there twice")
        if after[: len(before)] != before:
            continue
        if end_token_id is None:
            raise ValueError(
                f"label {ends.index(before)} is the beginning of label {ends.index(after)}; only "
                f"an end token tells them apart"
            )
        return [(*label, end_token_id) for label in ends]
    return ends
