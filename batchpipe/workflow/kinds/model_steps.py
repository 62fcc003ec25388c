"""What steps ask of models, and what they make of the answers, model after model.

Knows neither engines nor rows: a prompt's token ids in, questions out; answers in, values out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from batchpipe.engine.answer import Answer
from batchpipe.errors import ConfigError
from batchpipe.job.language import Language
from batchpipe.planner.request import Sampling
from batchpipe.running.said import Said, read
from batchpipe.scoring import choice_of, scored_by, told_apart
from batchpipe.structured.judge import Matches
from batchpipe.workflow.kinds.wording import Prompt, TokenIds
from batchpipe.workflow.operators.votes import answer_in, is_settled, is_sure, verdict
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Cascade, Llm, Vote


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What an engine is asked; ``name`` seeds what it draws."""

    token_ids: TokenIds
    sampling: Sampling
    name: str


@dataclass(frozen=True, slots=True)
class Onward:
    """The next model is to be asked; ``content`` is what this one said, as JSON has it."""

    content: Any


class ModelStep(Protocol):
    """A step that asks models, one after the other where the first is not sure."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the workflow's models, in the order in which they are asked."""

    def sampling(self, stage: int) -> Sampling:
        """With what a prompt to the model of this stage must fit its context."""

    def questions(self, stage: int, prompt: Prompt, name: str) -> list[Question]:
        """What its engine is asked for a row; ``name`` names the step and the row."""

    def concluded(
        self, stage: int, asked: Sequence[Question], answers: Sequence[Answer], before: list[Any]
    ) -> Outcome | Onward:
        """What the row gets; ``before`` has what each earlier stage said."""


class Answering:
    """A step of one model and one answer."""

    def __init__(self, step: Llm, sampling: Sampling, language: Language, matches: Matches) -> None:
        self.models = (step.model,)
        self._sampling, self._language, self._matches = sampling, language, matches

    def sampling(self, stage: int) -> Sampling:
        """The step's own."""
        return self._sampling

    def questions(self, stage: int, prompt: Prompt, name: str) -> list[Question]:
        """The prompt."""
        return [Question(prompt.token_ids, prompt.sampling, name)]

    def concluded(
        self, stage: int, asked: Sequence[Question], answers: Sequence[Answer], before: list[Any]
    ) -> Outcome | Onward:
        """The text, and its value where the step asks for a form that has one."""
        said = read(answers[0], asked[0].sampling, self._language, self._matches)
        fault = said.fault or said.judged.fault
        if fault is not None:
            return Outcome(error=fault)
        constraint = self._sampling.constraint
        values: dict[str, Any] = {"output": said.text}
        if constraint is not None and constraint.kind in ("choices", "schema"):
            values["parsed"] = (
                None if said.judged.parsed is None else json.loads(said.judged.parsed)
            )
        return Outcome(values)


class Voting:
    """Several answers of one model, of more models where they disagree; the most votes win."""

    def __init__(
        self,
        step: Vote,
        samplings: Sequence[Sampling],  # by stage
        languages: Mapping[str, Language],
        matches: Matches,
    ) -> None:
        self.models = step.models
        self._step, self._samplings, self._matches = step, samplings, matches
        self._languages = languages

    def sampling(self, stage: int) -> Sampling:
        """Of one sample."""
        return self._samplings[stage]

    def questions(self, stage: int, prompt: Prompt, name: str) -> list[Question]:
        """The prompt as often as samples are asked for, each with random numbers of its own."""
        seed = prompt.sampling.seed
        if seed is not None:  # the step's own: equal prompts draw the same samples
            name = f"seed {seed}"
        sampling = replace(prompt.sampling, seed=None)
        return [
            Question(prompt.token_ids, sampling, f"{name} sample {sample}")
            for sample in range(self._step.samples)
        ]

    def concluded(
        self, stage: int, asked: Sequence[Question], answers: Sequence[Answer], before: list[Any]
    ) -> Outcome | Onward:
        """The verdict of all samples so far, where they agree or nobody is left to ask."""
        step, language = self._step, self._languages[self.models[stage]]
        said = [
            read(answer, question.sampling, language, self._matches)
            for answer, question in zip(answers, asked, strict=True)
        ]
        fault = next((each.fault for each in said if each.fault is not None), None)
        if fault is not None:
            return Outcome(error=fault)
        texts = [_right_text(each) for each in said]
        so_far = [*before, texts]
        samples = {
            model: [None if text is None else answer_in(text, step.answer) for text in some]
            for model, some in zip(self.models, so_far, strict=False)
        }
        own = samples[self.models[stage]]
        if not is_settled(own, step.agreement) and stage + 1 < len(self.models):
            return Onward(texts)
        found = verdict(samples, step.weights)
        if found is None:
            return Outcome(error=f"none of the samples has an answer; the first says {texts[0]!r}")
        return Outcome(
            {
                "output": found.output,
                "share": found.share,
                "votes": dict(found.votes),
                "model": found.model,
            }
        )


def _right_text(said: Said) -> str | None:
    """The text of a sample that is as was asked; another has no vote."""
    return said.text if said.judged.fault is None else None


class Choosing:
    """A cascade: how likely each choice is, by one model after the other until one is sure.

    Raises:
        ConfigError: a model's tokens cannot tell the choices apart
    """

    def __init__(self, step: Cascade, languages: Mapping[str, Language]) -> None:
        self.models = step.models
        self._choices, self._margin = step.choices, step.margin
        self._labels: list[list[tuple[int, ...]]] = []
        for model in step.models:
            language = languages[model]
            tokens = language.tokenize(step.choices, special_tokens=False)
            end = min(language.eos_token_ids, default=None)
            try:
                self._labels.append(told_apart(tokens, end))
            except ValueError as error:
                raise ConfigError(
                    f"step {step.name}: model {model} cannot tell the choices "
                    f"{list(step.choices)} apart: {error}"
                ) from error

    def sampling(self, stage: int) -> Sampling:
        """Room for the longest choice."""
        return Sampling(max_tokens=max(len(label) for label in self._labels[stage]))

    def questions(self, stage: int, prompt: Prompt, name: str) -> list[Question]:
        """The prompt with each choice behind it; nothing is drawn."""
        how = scored_by(len(prompt.token_ids))
        return [
            Question(
                np.concatenate([prompt.token_ids, np.asarray(label, dtype=np.int32)]), how, name
            )
            for label in self._labels[stage]
        ]

    def concluded(
        self, stage: int, asked: Sequence[Question], answers: Sequence[Answer], before: list[Any]
    ) -> Outcome | Onward:
        """The likeliest choice, where it is far enough from the second or nobody is left to ask."""
        prompt_tokens = len(asked[0].token_ids) - len(self._labels[stage][0])
        choice = choice_of(answers, prompt_tokens)
        if choice.fault is not None:
            return Outcome(error=choice.fault)
        margin = choice.margin
        if not is_sure(margin, self._margin) and stage + 1 < len(self.models):
            return Onward(margin)
        values = {"output": self._choices[choice.best], "margin": margin}
        return Outcome({**values, "model": self.models[stage]})
