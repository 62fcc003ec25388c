"""From the plan's answers to the rows' results: duplicates fan out, samples come together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np

from batchpipe.engine.answer import Answer
from batchpipe.engine.text import finish_text
from batchpipe.planner.plan import Plan
from batchpipe.rows.results import FinishReason, Result
from batchpipe.run.language import Language
from batchpipe.run.logprob_cells import LogprobCells
from batchpipe.run.prepare import Job

FINISH_REASONS: dict[str, FinishReason] = {
    "eos": "stop",
    "stop_string": "stop",
    "length": "length",
}
NOT_NUMBERS = "the model's scores were not numbers (NaN or all -inf)"


def failed_results(faults: Mapping[int, str], *, but: Container[int] = ()) -> list[Result]:
    """The error results of rows that cannot run, save those that have theirs."""
    return [Result.failed(row, why) for row, why in sorted(faults.items()) if row not in but]


class Answers:
    """Turns each row's answers into its result as soon as the last of them is there."""

    def __init__(self, job: Job, plan: Plan, language: Language) -> None:
        self._job, self._plan, self._language = job, plan, language
        self._logprobs = LogprobCells(language.tokenizer)
        self._waiting: dict[int, list[Answer]] = {}  # first prompt of a row -> its answers so far
        by_prompt = np.argsort(plan.first_prompt, kind="stable")
        starts = np.searchsorted(plan.first_prompt[by_prompt], np.arange(len(plan.prompts) + 1))
        self._rows_of = (by_prompt, starts)

    def results(self, answers: Iterable[Answer]) -> list[Result]:
        """Results of the rows that these answers complete."""
        results: list[Result] = []
        for answer in answers:
            first = answer.index - int(self._plan.sample[answer.index])
            samples = self._waiting.setdefault(first, [])
            samples.append(answer)
            if len(samples) == self._plan.samplings[first].n:
                del self._waiting[first]
                results += self._fan_out(first, sorted(samples, key=lambda each: each.index))
        return results

    def _fan_out(self, first: int, samples: list[Answer]) -> list[Result]:
        by_prompt, starts = self._rows_of
        places = by_prompt[starts[first] : starts[first + 1]].tolist()
        return [
            self._result(int(self._job.runnable[place]), samples, duplicate=bool(nth))
            for nth, place in enumerate(places)
        ]

    def _result(self, row: int, samples: list[Answer], *, duplicate: bool) -> Result:
        first = samples[0]
        prompt_tokens = len(self._plan.prompts[first.index])
        faults = [answer.fault or NOT_NUMBERS for answer in samples if _is_fault(answer)]
        if faults:
            return Result.failed(row, faults[0])
        texts = tuple(self._text(answer) for answer in samples)
        return Result(
            ordinal=row,
            output=texts[0],
            outputs=texts if len(texts) > 1 else None,
            finish_reason=FINISH_REASONS[first.ended_by],
            prompt_tokens=prompt_tokens,
            cached_tokens=prompt_tokens if duplicate else first.cached_tokens,
            completion_tokens=sum(answer.tokens for answer in samples),
            output_token_ids=first.token_ids or None,
            **self._told(samples),
        )

    def _told(self, samples: list[Answer]) -> dict[str, Any]:
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

    def _text(self, answer: Answer) -> str:
        if answer.text is not None:
            return answer.text
        return finish_text(
            self._language.tokenizer,
            answer.token_ids,
            self._plan.samplings[answer.index].stop,
            stopped_by_string=answer.ended_by == "stop_string",
            stopped_by_token=answer.ended_by == "eos",
        )


def _is_fault(answer: Answer) -> bool:
    return answer.ended_by not in FINISH_REASONS
