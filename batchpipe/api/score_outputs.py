"""How likely a loaded model finds continuations, each as a frozen object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from batchpipe.api.loaded import Loaded
from batchpipe.api.sentences import in_python
from batchpipe.api.watching import watching
from batchpipe.errors import ConfigError
from batchpipe.job.language import Language
from batchpipe.job.prompt_list import tokenized_list
from batchpipe.planner.request import TokenIds
from batchpipe.rows.results import Status
from batchpipe.rows.words import shown
from batchpipe.running.progress import Progress
from batchpipe.running.score_in_memory import scoring_by
from batchpipe.scoring import Score
from batchpipe.scoring import score as score_rows


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """How likely the model finds a continuation behind its prompt, or why nobody knows.

    >>> import batchpipe as bp
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> with bp.LLM(MODEL_DIR, dtype="float32") as llm:
    ...     good, bad = llm.score(["Ticket:", ""], [" the kettle leaks", " a lamp"])
    >>> good.status, good.logprob < 0, len(good.logprobs) == len(good.token_ids)
    ('success', True, True)
    >>> bad.status, bad.logprob, bad.error
    ('error', None, 'prompt is empty')
    """

    request_id: str
    logprob: float | None  # of the whole continuation; None where it could not be scored
    logprobs: tuple[float, ...]  # of each of its tokens
    token_ids: tuple[int, ...]  # of the continuation
    greedy: bool | None  # whether greedy decoding would say just this
    status: Status
    error: str | None  # a sentence
    prompt_tokens: int


def score_outputs(
    loaded: Loaded,
    prompts: Sequence[object],
    continuations: Sequence[object],
    progress: bool | Callable[[Progress], object],
) -> list[ScoreOutput]:
    """One output for each pair, in their order."""
    if len(prompts) != len(continuations):
        raise ConfigError(
            f"there are {len(continuations)} continuations for {len(prompts)} prompts: give one "
            f"for each"
        )
    more, wrong = _continuations(continuations, loaded.language)
    found = tokenized_list(prompts, loaded.language, wrong)
    places = found.places.tolist()
    answer = scoring_by(loaded.language, loaded.backend, loaded.dtype, watching(progress))
    scores = score_rows(answer, list(found.prompts), [more[place] for place in places])
    tokens = dict(zip(places, found.prompts.lengths.tolist(), strict=True))
    of_place = dict(zip(places, scores, strict=True))
    of_place |= {place: Score.failed(why) for place, why in found.faults.items()}
    return [
        _output(place, of_place[place], more.get(place), tokens.get(place, 0))
        for place in range(len(prompts))
    ]


def _output(
    place: int, score: Score, continuation: TokenIds | None, prompt_tokens: int
) -> ScoreOutput:
    failed = score.fault is not None
    return ScoreOutput(
        request_id=f"row-{place}",
        logprob=None if failed else score.logprob,
        logprobs=tuple(score.logprobs.tolist()),
        token_ids=() if continuation is None else tuple(continuation.tolist()),
        greedy=None if failed else score.greedy,
        status="error" if failed else "success",
        error=None if score.fault is None else in_python(score.fault),
        prompt_tokens=prompt_tokens,
    )


def _continuations(
    given: Sequence[object], language: Language
) -> tuple[dict[int, TokenIds], dict[int, str]]:
    """Token ids by place, and why others have none; texts become tokens by themselves."""
    tokens: dict[int, TokenIds] = {}
    wrong: dict[int, str] = {}
    texts: list[int] = []
    for place, each in enumerate(given):
        if isinstance(each, str):
            if any("\ud800" <= character <= "\udfff" for character in each):
                wrong[place] = "the continuation has half a surrogate pair"
            else:
                texts.append(place)
        elif _are_tokens(each):
            tokens[place] = np.asarray(each, dtype=np.int32)
        else:
            wrong[place] = f"the continuation is {shown(each)}; it must be a text or token ids"
    ids = language.tokenize([cast(str, given[place]) for place in texts], special_tokens=False)
    for place, found in zip(texts, ids, strict=True):
        tokens[place] = np.asarray(found, dtype=np.int32)
    return tokens, wrong


def _are_tokens(value: object) -> bool:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return False
    return all(type(token) is int and 0 <= token < 2**31 for token in value)
