"""The figures and lines of the page that stand in no file as they are."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchpipe.config import dtype_text
from batchpipe.report.findings import Findings
from batchpipe.running.session.record import SlowRow
from batchpipe.running.work import Work

SLOW_ROWS = 50


@dataclass(frozen=True, slots=True)
class Figures:
    """What the run did, of all rows that are answered so far."""

    rows: int | None
    finished: int
    succeeded: int
    failed: int
    duplicates: int
    prompt_tokens: int  # logical: every row as if alone
    computed_tokens: int
    shareable_tokens: int | None  # of the whole job
    answer_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    steps: int
    preemptions: int
    swapped_tokens: int
    restored_tokens: int
    memory_shortages: int
    peak_kv_tokens: int | None
    kv_tokens: int | None
    plan_seconds: float
    load_seconds: float
    run_seconds: float
    expected_seconds: float | None  # of the last session's plan

    @property
    def reused_tokens(self) -> int:
        """Prompt tokens that needed no computing."""
        return self.prompt_tokens - self.computed_tokens

    @property
    def reused_share(self) -> float:
        """Of the logical prompt tokens."""
        return max(0.0, self.reused_tokens / self.prompt_tokens) if self.prompt_tokens else 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Logical prompt tokens and answer tokens, over the time of answering."""
        if not self.run_seconds:
            return None
        return (self.prompt_tokens + self.answer_tokens) / self.run_seconds


def figures(found: Findings) -> Figures:
    """From the summary where the run is complete, else from its parts."""
    tally, status, facts = found.tally, found.status, found.manifest.facts
    summary: Mapping[str, Any] = found.summary or {}
    work = Work.of(dict(facts))
    last = found.sessions[-1].facts if found.sessions else {}
    held = [point.kv_tokens for session in found.sessions for point in session.points]
    return Figures(
        rows=status.rows,
        finished=status.finished,
        succeeded=tally.succeeded,
        failed=status.failed,
        duplicates=facts.get("duplicates", 0),
        prompt_tokens=tally.prompt_tokens,
        computed_tokens=summary.get("computed_prompt_tokens", tally.uncached_tokens),
        shareable_tokens=facts.get("shareable_prompt_tokens"),
        answer_tokens=tally.completion_tokens,
        drafted_tokens=work.drafted_tokens,
        accepted_tokens=work.accepted_tokens,
        steps=work.steps,
        preemptions=work.preemptions,
        swapped_tokens=work.swapped_tokens,
        restored_tokens=work.restored_tokens,
        memory_shortages=work.memory_shortages,
        peak_kv_tokens=summary.get("peak_kv_tokens") or max(held, default=0) or None,
        kv_tokens=last.get("kv_tokens") or None,
        plan_seconds=work.plan_seconds,
        load_seconds=work.load_seconds,
        run_seconds=work.run_seconds,
        expected_seconds=last.get("expected_seconds") or None,
    )


STATES = {
    "running": "Still running: this page has what was on disk when it was made. Make it again for "
    "more.",
    "stopped": "Stopped before its end. The same command goes on where it was.",
    "repair pending": "A retry is not finished. The same retry goes on where it was.",
    "finished": "Finished: every row has its result.",
}


def headline(found: Findings) -> str:
    """How it stands, in a sentence or two."""
    said = STATES[found.status.state]
    damaged = len(found.status.damaged)
    if damaged:
        return (
            f"{said} Damaged: {damaged:,} of its files; the same command computes their rows again."
        )
    return said


def run_name(found: Findings) -> str:
    """What the run's output is called."""
    return posixpath.basename(found.manifest.output.rstrip("/")) or found.status.run_dir


def model_name(found: Findings) -> str:
    """The model, what computed it and where, as far as that is known."""
    job = found.manifest.command.get("job", {})
    name = posixpath.basename(str(job.get("model", "")).rstrip("/"))
    dtype = found.manifest.fingerprint.get("dtype")
    said = [name] if name else []
    if dtype:
        said.append(dtype_text(dtype, job.get("quantize")))
    if found.summary is not None:
        said.append(str(found.summary.get("device")))
    return " · ".join(said)


def parameters(found: Findings) -> dict[str, dict[str, str]]:
    """Every option of the run that was given or has a default, by kind."""
    command = found.manifest.command
    job = dict(command.get("job", {}))
    sampling = job.pop("sampling", None) or {}
    kinds = {"Job": job, "Sampling": sampling, "Run": command.get("run", {})}
    return {
        kind: {name: _value(value) for name, value in options.items() if value is not None}
        for kind, options in kinds.items()
        if options
    }


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def session_lines(found: Findings) -> list[dict[str, Any]]:
    """One line a session: when, how long, and what its file tells."""
    told = {session.number: session for session in found.sessions}
    lines = []
    for number, each in enumerate(found.manifest.sessions, 1):
        session = told.get(number)
        last = session.points[-1] if session and session.points else None
        lines.append(
            {
                "number": number,
                "started": each.started,
                "seconds": each.seconds,
                "rows_before": each.rows_before,
                "rows": None if last is None else last.rows,
                "prompts": None if session is None else session.facts.get("prompts"),
                "expected": None if session is None else session.facts.get("expected_seconds"),
                "answering": None if last is None else last.seconds,
                "policy": None if session is None else session.facts.get("policy"),
                "is_done": session is not None and session.is_done,
            }
        )
    return lines


def slow_rows(found: Findings) -> list[dict[str, Any]]:
    """The slowest rows of all sessions."""
    rows: list[SlowRow] = [row for session in found.sessions for row in session.slow_rows]
    rows.sort(key=lambda row: -row.seconds)
    return [asdict(row) for row in rows[:SLOW_ROWS]]
