"""From the plan's answers to the rows' results: duplicates fan out, samples come together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from batchpipe.engine.answer import Answer
from batchpipe.job.language import Language
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan
from batchpipe.rows.results import Result
from batchpipe.running.logprob_cells import LogprobCells
from batchpipe.running.said import FINISH_REASONS, Said, read
from batchpipe.structured.judge import Judged, Matches


def failed_results(faults: Mapping[int, str], *, but: Container[int] = ()) -> list[Result]:
    """The error results of rows that cannot run, save those that have theirs."""
    return [Result.failed(row, why) for row, why in sorted(faults.items()) if row not in but]


@dataclass(frozen=True, slots=True)
class Row:
    """One row's result, and the answers that it was made of; none where it failed before."""

    result: Result
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """What one prompt of a row was answered; all but rows of several prompts have one."""

    place: int  # among all that run
    samples: list[Answer]
    prompt_tokens: int
    cached_tokens: int


class Answers:
    """Turns each row's answers into its result as soon as the last of them is there.

    Args:
        job: what the rows are
        plan: the prompts that stand for them
        language: how tokens become text
        matches: what knows whether an answer is as its row asked
    """

    def __init__(self, job: Job, plan: Plan, language: Language, matches: Matches) -> None:
        self._job, self._plan, self._language, self._matches = job, plan, language, matches
        self._logprobs = LogprobCells(language.tokenizer)
        self._waiting: dict[int, list[Answer]] = {}  # first prompt of a row -> its answers so far
        by_prompt = np.argsort(plan.first_prompt, kind="stable")
        starts = np.searchsorted(plan.first_prompt[by_prompt], np.arange(len(plan.prompts) + 1))
        self._rows_of = (by_prompt, starts)
        # A row of several prompts: their places are [first, end) among all that run.
        self._firsts = np.searchsorted(job.runnable, job.runnable, "left")
        self._ends = np.searchsorted(job.runnable, job.runnable, "right")
        self._parts: dict[int, list[_Part]] = {}  # first place of such a row -> its answers so far

    def results(self, answers: Iterable[Answer]) -> list[Result]:
        """Results of the rows that these answers complete."""
        return [row.result for row in self.rows(answers)]

    def rows(self, answers: Iterable[Answer]) -> Iterator[Row]:
        """The rows that these answers complete."""
        for answer in answers:
            first = answer.index - int(self._plan.sample[answer.index])
            samples = self._waiting.setdefault(first, [])
            samples.append(answer)
            if len(samples) == self._plan.samplings[first].n:
                del self._waiting[first]
                yield from self._fan_out(first, sorted(samples, key=lambda each: each.index))

    def _fan_out(self, first: int, samples: list[Answer]) -> Iterator[Row]:
        by_prompt, starts = self._rows_of
        places = by_prompt[starts[first] : starts[first + 1]].tolist()
        for nth, place in enumerate(places):
            tokens = len(self._plan.prompts[first])
            cached = tokens if nth else samples[0].cached_tokens
            parts = self._gathered(_Part(place, samples, tokens, cached))
            if parts:
                yield self._row(int(self._job.runnable[place]), parts)

    def _gathered(self, part: _Part) -> list[_Part]:
        """All parts of the row in order, once this is the last of them; else none."""
        first, end = int(self._firsts[part.place]), int(self._ends[part.place])
        if end - first == 1:
            return [part]
        parts = self._parts.setdefault(first, [])
        parts.append(part)
        if len(parts) < end - first:
            return []
        return sorted(self._parts.pop(first), key=lambda each: each.place)

    def _row(self, ordinal: int, parts: list[_Part]) -> Row:
        answers = tuple(answer for part in parts for answer in part.samples)
        said = [self._read(answer) for answer in answers]
        faults = [each.fault for each in said if each.fault is not None]
        if faults:
            return Row(Result.failed(ordinal, faults[0]), answers)
        texts = tuple(each.text for each in said)
        reasons = tuple(FINISH_REASONS[answer.ended_by] for answer in answers)
        several = len(texts) > 1
        judged = [each.judged for each in said]
        wrong = _wrong(judged)
        result = Result(
            ordinal=ordinal,
            output=texts[0],
            parsed=judged[0].parsed,
            status="success" if wrong is None else "invalid_output",
            error=wrong,
            outputs=texts if several else None,
            finish_reason=reasons[0],
            finish_reasons=reasons if several else None,
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            cached_tokens=sum(part.cached_tokens for part in parts),
            completion_tokens=sum(answer.tokens for answer in answers),
            output_token_ids=answers[0].token_ids or None,
            **self._told(answers),
        )
        return Row(result, answers)

    def _read(self, answer: Answer) -> Said:
        return read(answer, self._plan.samplings[answer.index], self._language, self._matches)

    def _told(self, samples: Sequence[Answer]) -> dict[str, Any]:
        """How likely the model found the tokens, where the row asked for it."""
        cells = [
            self._logprobs.cell(each.token_ids, each.logprobs)
            for each in samples
            if each.logprobs is not None
        ]
        told: dict[str, Any] = {}
        if cells:
            told["logprobs"] = cells[0]
            told["outputs_logprobs"] = tuple(cells) if len(cells) > 1 else None
        found = samples[0].prompt_logprobs
        if found is not None:
            prompt = self._plan.prompts[samples[0].index]
            told["prompt_logprobs"] = self._logprobs.cell(prompt, found)
        return told


def _wrong(judged: list[Judged]) -> str | None:
    """What is wrong with the first sample that is; nothing, in the best case."""
    for number, each in enumerate(judged, start=1):
        if each.fault is not None:
            return each.fault if len(judged) == 1 else f"sample {number}: {each.fault}"
    return None
