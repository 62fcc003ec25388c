"""How answers are drawn, as a Python user says it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from batchpipe.api.forms import plain_forms
from batchpipe.errors import ConfigError
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameters import check_overrides, sampled_by


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a prompt is answered. Names and meaning follow vLLM's ``SamplingParams``.

    What is None is left to the model's ``generation_config.json``; where that says nothing, answers
    are greedy and have at most 256 tokens.

    >>> import batchpipe as bp
    >>> bp.SamplingParams(temperature=0.8, top_p=0.95, max_tokens=64, stop=["\\n"])
    SamplingParams(max_tokens=64, temperature=0.8, top_p=0.95, stop=['\\n'])
    >>> bp.SamplingParams(temperature=-1)
    Traceback (most recent call last):
        ...
    batchpipe.errors.ConfigError: temperature is -1; it must be a number of 0 or more
    """

    max_tokens: int | None = None
    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    n: int | None = None  # answers per prompt
    seed: int | None = None  # of the prompt's own; None draws from the LLM's seed and the place
    stop: str | Sequence[str] | None = None  # texts that end an answer
    stop_token_ids: Sequence[int] | None = None
    ignore_eos: bool | None = None
    logprobs: int | None = None  # so many of the likeliest tokens beside each; 0: the token alone
    prompt_logprobs: int | None = None  # the same of the prompt; with max_tokens=0 nothing else
    choices: Sequence[str] | str | None = None  # the answer is one of these
    schema: object = None  # JSON of this JSON Schema, pydantic model, or fields: 'name, age int'
    regex: str | None = None  # all of the answer matches this
    grammar: str | os.PathLike[str] | None = None  # GBNF, or its file

    def __post_init__(self) -> None:
        check_overrides(self.given())

    def given(self) -> dict[str, Any]:
        """What is not None, by its name in a job file."""
        every = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain_forms({name: value for name, value in every.items() if value is not None})

    def __repr__(self) -> str:
        given = {name: getattr(self, name) for name in self.given()}
        return f"SamplingParams({', '.join(f'{n}={value!r}' for n, value in given.items())})"


# Of all prompts, or one for each; None is what the model says.
Params = SamplingParams | Sequence[SamplingParams | None] | None


def samplings_of(
    params: Params,
    prompts: int,
    defaults: Sampling,
) -> list[Sampling | str]:
    """How each prompt is sampled, or a sentence where its own parameters are wrong together.

    Raises:
        ConfigError: the parameters of all prompts are wrong together, or there are too few or too
            many of them
        TypeError: they are no `SamplingParams`
    """
    if params is None or isinstance(params, SamplingParams):
        sampling = sampled_by(defaults, {} if params is None else params.given())
        if isinstance(sampling, str):
            raise ConfigError(sampling)
        return [sampling] * prompts
    each = list(params)
    if len(each) != prompts:
        raise ConfigError(
            f"there are {len(each)} SamplingParams for {prompts} prompts: give one, or one for each"
        )
    for at, one in enumerate(each):
        if one is not None and not isinstance(one, SamplingParams):
            raise TypeError(f"sampling_params[{at}] is {one!r}, not a SamplingParams")
    made: dict[int, Sampling | str] = {}  # by object: most lists repeat a few
    for one in each:
        if id(one) not in made:
            made[id(one)] = sampled_by(defaults, {} if one is None else one.given())
    return [made[id(one)] for one in each]
