"""How likely a model finds given continuations of given prompts, and which of some labels.

Nothing is drawn: each prompt with its continuation is a row that is only scored. All of them are
one plan, so that a prompt with several continuations is computed once.

Knows neither texts nor models: who calls it has something that answers rows of token ids.

    [found] = score(answer, [[5, 6, 7]], [[8, 9]])
    found.logprob  # of 8, 9 behind 5, 6, 7
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from batchpipe.engine.answer import Answer
from batchpipe.planner.request import Prompts, Sampling

NOT_NUMBERS = "the model's scores were not numbers (NaN or all -inf)"

TokenIds = Sequence[int] | npt.NDArray[np.int32]

# One answer a row, in their order; each row has a way to be sampled.
AnswerRows = Callable[[Prompts, Sequence[Sampling]], Sequence[Answer]]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How likely one continuation is behind its prompt, by the model's raw distribution.

    Where ``fault`` says why it could not be scored, all else says nothing.
    """

    logprobs: npt.NDArray[np.float32]  # of each of its tokens  # [tokens]
    ranks: npt.NDArray[np.int32]  # 1 where no token is likelier  # [tokens]
    cached_tokens: int = 0  # of both, which were not computed on its behalf
    fault: str | None = None

    @classmethod
    def failed(cls, sentence: str) -> Score:
        """No score, with the reason."""
        nothing = np.zeros(0, dtype=np.int32)
        return cls(nothing.astype(np.float32), nothing, fault=sentence)

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
    """How likely each of some labels is, given that it is one of them; or why nobody knows."""

    probabilities: npt.NDArray[np.float64]  # [labels]
    cached_tokens: int = 0  # of the prompt, which were not computed on its behalf
    fault: str | None = None

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
        ValueError: a prompt is empty, or there are not as many of both
    """
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts and {len(continuations)} continuations")
    for place, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {place} has no tokens, and nothing follows nothing")
    pairs = zip(prompts, continuations, strict=True)
    rows = [np.concatenate([_packed(prompt), _packed(more)]) for prompt, more in pairs]
    samplings = [scored_by(len(prompt)) for prompt in prompts]
    return [_score_of(each) for each in answer(Prompts.pack(rows), samplings)]


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
    ends = told_apart(labels, end_token_id)
    pairs = [(prompt, label) for prompt in prompts for label in ends]
    found = score(answer, [prompt for prompt, _ in pairs], [label for _, label in pairs])
    return [
        _choice_of(found[first : first + len(ends)], len(prompt))
        for first, prompt in zip(range(0, len(found), len(ends)), prompts, strict=True)
    ]


def scored_by(prompt_tokens: int) -> Sampling:
    """How a prompt with a continuation is asked, so that the answer tells of the continuation."""
    return Sampling(max_tokens=0, prompt_logprobs=0, prompt_logprobs_from=prompt_tokens)


def choice_of(answers: Sequence[Answer], prompt_tokens: int) -> Choice:
    """How likely each label is, by the answers to the prompt with each of them behind it."""
    return _choice_of([_score_of(answer) for answer in answers], prompt_tokens)


def _packed(tokens: TokenIds) -> npt.NDArray[np.int32]:
    return np.asarray(tokens, dtype=np.int32)


def _score_of(answer: Answer) -> Score:
    found = answer.prompt_logprobs
    if answer.fault is not None:
        return Score.failed(answer.fault)
    if found is None or not found.are_numbers:
        return Score.failed(NOT_NUMBERS)
    return Score(found.values, found.ranks, answer.cached_tokens)


def _choice_of(scores: Sequence[Score], prompt_tokens: int) -> Choice:
    faults = [each.fault for each in scores if each.fault is not None]
    if faults:
        return Choice(np.full(len(scores), np.nan), fault=faults[0])
    logprobs = np.array([each.logprob for each in scores])
    weights = np.exp(logprobs - logprobs.max())
    cached = min(prompt_tokens, *(each.cached_tokens for each in scores))
    return Choice(weights / weights.sum(), cached)


def told_apart(labels: Sequence[TokenIds], end_token_id: int | None) -> list[tuple[int, ...]]:
    """The labels as they are, or all with an end where one of them begins another.

    Raises:
        ValueError: as `choose`
    """
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
