"""How a shared run of tokens reads."""

from __future__ import annotations

from batchpipe.job.language import Language
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan

EXCERPT_CHARACTERS = 48
EXCERPT_TOKENS = 32


def excerpt(job: Job, plan: Plan, language: Language, prompt: int, start: int, end: int) -> str:
    """How the tokens ``start:end`` begin, on one line; of a trace, whose tokens they are."""
    if language.tokenizer is None:
        name = job.request_ids[plan.first_row[prompt]]
        return f"tokens {start:,}:{end:,} of request {name}"
    ids = plan.prompts[prompt][start : min(end, start + EXCERPT_TOKENS)].tolist()
    line = " ".join(language.tokenizer.decode(ids).split())
    return line if len(line) <= EXCERPT_CHARACTERS else line[: EXCERPT_CHARACTERS - 1] + "…"
