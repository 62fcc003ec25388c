"""Steps that ask models, made of what their authors wrote, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.job.forms import check_judge, grammars
from batchpipe.job.language import Language
from batchpipe.job.row_sampling import default_sampling
from batchpipe.planner.request import Sampling
from batchpipe.rows.parameters import sampled_by
from batchpipe.structured.judge import Matches, matches_by_re
from batchpipe.workflow.kinds.model_steps import Answering, Choosing, ModelStep, Voting
from batchpipe.workflow.lowering.operator_of import models_of
from batchpipe.workflow.steps import Cascade, Llm, Vote


def model_step(
    step: Llm | Vote | Cascade,
    options: Mapping[str, JobOptions],  # by the model's name in the workflow
    languages: Mapping[str, Language],
) -> ModelStep:
    """What asks the step's models.

    Raises:
        ConfigError: a model cannot be asked so, whatever the row
    """
    own = {model: languages[model] for model in models_of(step)}
    if isinstance(step, Cascade):
        return Choosing(step, own)
    samplings = [_sampling(step, options[model], language) for model, language in own.items()]
    matches = _matches(step, samplings[0], own)
    if isinstance(step, Vote):
        return Voting(step, samplings, own, matches)
    return Answering(step, samplings[0], own[step.model], matches)


def _sampling(step: Llm | Vote, options: JobOptions, language: Language) -> Sampling:
    asked = replace(options, sampling=dict(step.sampling))
    try:
        found = sampled_by(default_sampling(asked, language), {})
    except ConfigError as error:
        raise ConfigError(f"{step.place}: {error}") from error
    if isinstance(found, str):
        raise ConfigError(f"{step.place}: {found}")
    return found


def _matches(step: Llm | Vote, sampling: Sampling, languages: Mapping[str, Language]) -> Matches:
    """What knows whether an answer is as the step asks, which can be compiled."""
    constraint = sampling.constraint
    if constraint is None:
        return matches_by_re
    check_judge([sampling])
    fault = grammars().grammar_fault(constraint)
    if fault is not None:
        raise ConfigError(f"{step.place}: {constraint.kind}: {fault}")
    for model, language in languages.items():
        if not language.eos_token_ids:
            raise ConfigError(
                f"{step.place}: model {model} has no token that ends an answer, which choices, "
                f"schema, regex and grammar need; set eos_token_id in its "
                f"generation_config.json"
            )
    found: Callable[..., Any] = grammars().matches
    return found
