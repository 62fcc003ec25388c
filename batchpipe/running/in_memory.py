"""A job whose answers stay in memory: planned and executed like any other, written nowhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from batchpipe.job.collection import collection_paused
from batchpipe.job.forms import check_judge
from batchpipe.job.language import Language
from batchpipe.job.plan_job import plan_job
from batchpipe.job.prepare import Job
from batchpipe.running.answers import Answers, Row, failed_results
from batchpipe.running.engines import Backend, Opened
from batchpipe.running.progress import Progress, Watcher


def answer_in_memory(
    job: Job, language: Language, backend: Backend, dtype: str | None, watcher: Watcher
) -> list[Row]:
    """Every row of the job is answered or has its error, in input order.

    Raises:
        ConfigError: the model or its keys and values have no room
        StoppedEarly: the engine can answer no more; nothing is kept
    """
    target = backend.target(language, dtype)
    job, plan = plan_job(job, backend.options.order, target)
    rows: dict[int, Row] = {}
    try:
        if len(plan.prompts):
            check_judge(plan.samplings)
            with collection_paused():
                opened = backend.open(job, plan, language, target)
            job = opened.job
            for row in _answered(opened, language, watcher):
                rows[row.result.ordinal] = row
    finally:
        watcher.close()
    rows.update((result.ordinal, Row(result)) for result in failed_results(job.faults))
    assert len(rows) == len(job.source), f"{len(rows)} results for {len(job.source)} rows"
    return [rows[ordinal] for ordinal in range(len(job.source))]


def _answered(opened: Opened, language: Language, watcher: Watcher) -> Iterator[Row]:
    """The rows as they are answered; the watcher knows of them after the step that did it."""
    answers = Answers(opened.job, opened.plan, language, opened.matches)
    started = time.perf_counter()
    done = done_before = len(opened.job.faults)
    prompt_tokens = 0

    def told() -> Progress:
        counts = opened.engine.spent().counts
        return Progress(
            done=done,
            total=len(opened.job.source),
            done_before=done_before,
            prompt_tokens=prompt_tokens,
            computed_prompt_tokens=counts.computed_prompt_tokens,
            completion_tokens=counts.completion_tokens,
            seconds=time.perf_counter() - started,
        )

    with closing(opened.engine.steps()) as steps:
        watcher.show(told())
        for finished in steps:
            for row in answers.rows(finished):
                done, prompt_tokens = done + 1, prompt_tokens + row.result.prompt_tokens
                yield row
            watcher.show(told())
