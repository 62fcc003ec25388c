"""What an engine's answer says: its text, whether that is as was asked, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchpipe.engine.answer import Answer
from batchpipe.engine.text import finish_text
from batchpipe.job.language import Language
from batchpipe.planner.request import Sampling
from batchpipe.rows.results import FinishReason
from batchpipe.structured.judge import Judged, Matches, judge

FINISH_REASONS: dict[str, FinishReason] = {
    "eos": "stop",
    "stop_string": "stop",
    "complete": "stop",
    "length": "length",
}
NO_ANSWER = {
    "nan": "the model's scores were not numbers (NaN or all -inf)",
    "stuck": "the model has no token that goes on as the row's {kind} wants",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A text and what it is to its form; or the fault for which there is none."""

    text: str = ""
    judged: Judged = field(default_factory=Judged)
    fault: str | None = None


def read(answer: Answer, sampling: Sampling, language: Language, matches: Matches) -> Said:
    """What the answer says to a prompt that was asked so."""
    constraint = sampling.constraint
    if answer.fault is not None:
        return Said(fault=answer.fault)
    if answer.ended_by in NO_ANSWER:
        return Said(fault=NO_ANSWER[answer.ended_by].format(kind=constraint and constraint.kind))
    text = answer.text
    if text is None:
        text = finish_text(
            language.tokenizer,
            answer.token_ids,
            sampling.stop,
            stopped_by_string=answer.ended_by == "stop_string",
            stopped_by_token=answer.ended_by == "eos",
        )
    if constraint is None or not sampling.max_tokens:  # then only its prompt is looked at
        return Said(text)
    return Said(text, judge(constraint, text, matches, cut=answer.ended_by == "length"))
