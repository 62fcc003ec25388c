"""What a prompt was answered, with batchpipe's names and with vLLM's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batchpipe.api.logprobs import OutputLogprobs, PromptLogprobs
from batchpipe.api.sentences import in_python
from batchpipe.job.prompt_list import PromptList
from batchpipe.planner.request import TokenIds
from batchpipe.rows.results import FinishReason, Status
from batchpipe.running.answers import Row
from batchpipe.running.said import FINISH_REASONS


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One sample of an answer.

    >>> import batchpipe as bp
    >>> bp.CompletionOutput(index=0, text="yes", token_ids=(12, 2), finish_reason="stop").text
    'yes'
    """

    index: int
    text: str  # without what ended it; empty where the prompt failed
    token_ids: tuple[int, ...]  # with the token that ended it
    finish_reason: str | None  # "stop", "length" or "error"
    logprobs: OutputLogprobs | None = None  # of `token_ids`, where they were asked for

    @property
    def cumulative_logprob(self) -> float | None:
        """Of all its tokens together, where ``logprobs`` was asked for."""
        return None if self.logprobs is None else self.logprobs.total


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """What one prompt was answered, or why it was not.

    ``output``, ``status``, ``finish_reason``, ``error`` and the token counts are the columns of a
    results file; ``outputs``, ``prompt``, ``prompt_token_ids``, ``prompt_logprobs``,
    ``request_id``, ``finished`` and ``num_cached_tokens`` are what vLLM calls them. A prompt that
    failed has one empty sample.

    >>> import batchpipe as bp
    >>> from batchpipe.demo.prompt import MODEL_DIR
    >>> with bp.LLM(MODEL_DIR) as llm:
    ...     good, bad = llm.generate(["Ticket: where is my parcel?", ""])
    >>> good.status, good.outputs[0].text == good.output, good.prompt
    ('success', True, 'Ticket: where is my parcel?')
    >>> bad.status, bad.output, bad.error
    ('error', None, 'prompt is empty')
    """

    request_id: str
    prompt: str | None  # the text; of a chat what the template made of it; None for token ids
    outputs: tuple[CompletionOutput, ...]
    output: str | None  # the text of the first sample; None where the prompt failed
    parsed: Any  # the value in it, where choices or a schema were asked for
    status: Status
    finish_reason: FinishReason | None
    error: str | None  # a sentence
    prompt_tokens: int
    cached_tokens: int  # prompt tokens that another prompt's keys and values served
    completion_tokens: int  # of all samples
    prompt_logprobs: PromptLogprobs | None  # None too where they were not asked for
    _prompt: TokenIds = field(repr=False, compare=False)

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens that the model read; empty where the prompt failed before."""
        return list(self._prompt.tolist())

    @property
    def logprobs(self) -> OutputLogprobs | None:
        """Of the first sample's tokens, where they were asked for."""
        return self.outputs[0].logprobs

    @property
    def finished(self) -> bool:
        """True: a batch is answered whole."""
        return True

    @property
    def num_cached_tokens(self) -> int:
        """The same as `cached_tokens`."""
        return self.cached_tokens


def outputs_of(listed: PromptList, rows: Sequence[Row]) -> list[RequestOutput]:
    """The rows as a user sees them, in the order of the list."""
    job = listed.job
    index_of = {place: index for index, place in enumerate(job.runnable.tolist())}
    nothing = np.zeros(0, dtype=np.int32)
    return [
        _output(
            row,
            listed.texts.get(place),
            job.prompts[index_of[place]] if place in index_of else nothing,
        )
        for place, row in enumerate(rows)
    ]


def _output(row: Row, prompt: str | None, prompt_ids: TokenIds) -> RequestOutput:
    result = row.result
    return RequestOutput(
        request_id=f"row-{result.ordinal}",
        prompt=prompt,
        outputs=_samples(row),
        output=result.output,
        parsed=None if result.parsed is None else json.loads(result.parsed),
        status=result.status,
        finish_reason=result.finish_reason,
        error=None if result.error is None else in_python(result.error),
        prompt_tokens=result.prompt_tokens,
        cached_tokens=result.cached_tokens,
        completion_tokens=result.completion_tokens,
        prompt_logprobs=None
        if result.prompt_logprobs is None
        else PromptLogprobs(result.prompt_logprobs),
        _prompt=prompt_ids,
    )


def _samples(row: Row) -> tuple[CompletionOutput, ...]:
    result = row.result
    if result.output is None:
        return (CompletionOutput(0, "", (), "error"),)
    texts = result.outputs or (result.output,)
    cells = result.outputs_logprobs or (result.logprobs,) * len(texts)
    return tuple(
        CompletionOutput(
            index=nth,
            text=text,
            token_ids=answer.token_ids,
            finish_reason=FINISH_REASONS[answer.ended_by],
            logprobs=None if cell is None else OutputLogprobs(cell),
        )
        for nth, (text, answer, cell) in enumerate(zip(texts, row.answers, cells, strict=True))
    )
