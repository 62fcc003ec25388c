"""vLLM's log-probabilities as ours: a mapping by token id for each place, without order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from batchpipe.engine.logprobs import Logprobs


class Told(Protocol):
    """What vLLM says of one token in one place."""

    logprob: float
    rank: int | None


Places = Sequence[Mapping[int, Told] | None]  # None of the place that nothing precedes


def answer_logprobs(
    places: Places | None, tokens: Sequence[int], top: int | None
) -> Logprobs | None:
    """Those of an answer's tokens, with so many of the likeliest; None where not asked for."""
    if places is None or top is None:
        return None
    found = Logprobs.empty(len(tokens), top)
    for place, (token, told) in enumerate(zip(tokens, places, strict=False)):
        assert told is not None, f"vLLM tells nothing of token {place} of an answer"
        found.values[place], found.ranks[place] = told[token].logprob, told[token].rank or 0
        likeliest = sorted(told.items(), key=lambda each: -each[1].logprob)[:top]
        found.top_token_ids[place] = np.array([each for each, _ in likeliest])
        found.top_values[place] = np.array([each.logprob for _, each in likeliest])
    return found


def prompt_logprobs(
    places: Places | None, prompt: Sequence[int], top: int | None
) -> Logprobs | None:
    """Those of a prompt's tokens from its second on."""
    return answer_logprobs(None if places is None else places[1:], prompt[1:], top)
