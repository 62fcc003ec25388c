"""How far a workflow's run is, for who asks while it runs or afterwards; nothing is locked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.explain.layout import time_text
from batchpipe.journal.error_kinds import MOST_KINDS, ErrorKind, kind_of
from batchpipe.journal.folder import Folder
from batchpipe.journal.lock import holder
from batchpipe.journal.manifest import Manifest
from batchpipe.journal.part_file import DamagedFile, batches, fetched
from batchpipe.journal.status import LOOKS, read_run
from batchpipe.planner.query.graph import INPUT
from batchpipe.workflow.journal.tallies import BY_STEP

MOST_FAILED = 500  # results that are told one by one
_COLUMNS = ("table", "ordinal", "step", "error", "failed", "dropped")


@dataclass(frozen=True, slots=True)
class FailedResult:
    """A row of a table some of whose results are errors, and the first of these."""

    table: str
    row: int
    error: str


@dataclass(frozen=True, slots=True)
class WorkflowStatus:
    """How far a workflow's run is."""

    run_dir: str
    state: str  # "running", "stopped" or "finished"
    holder: str | None  # who writes it now
    rows: int | None  # of the input
    finished: int  # of them
    failed: int  # results that are errors
    filtered: int  # rows that filters dropped
    seconds: float  # of all its sessions
    sessions: int
    parts: int
    size_bytes: int
    steps: dict[str, dict[str, Any]]
    errors: list[ErrorKind]
    damaged: dict[str, str]  # file -> what is wrong with it
    failures: tuple[FailedResult, ...] = field(default=(), repr=False)  # the first of them

    def as_json(self) -> dict[str, Any]:
        """Plain values, in this order."""
        return asdict(self)

    def __str__(self) -> str:
        share = f" ({self.finished / self.rows:.1%})" if self.rows else ""
        lines = [
            ("run", self.run_dir),
            ("state", self.state + (f", by {self.holder}" if self.holder else "")),
            ("rows", f"{self.finished:,} of {self.rows or 0:,} finished{share}"),
            ("results", f"{self.failed:,} failed, {self.filtered:,} rows filtered"),
            ("time", f"{time_text(self.seconds)} in {self.sessions} sessions"),
            ("on disk", f"{self.parts} parts, {self.size_bytes:,} bytes"),
        ]
        for name, step in self.steps.items():
            told = f"{step['rows']:,} rows, {step['calls']:,} calls"
            lines.append((f"step {name}", f"{told}, {step['failed']:,} failed"))
        lines += [("error", f"{each.rows:,} rows: {each.error}") for each in self.errors[:10]]
        lines += [("damaged", f"{name} {what}") for name, what in self.damaged.items()]
        width = max(len(name) for name, _ in lines) + 2
        return "\n".join(f"{name:<{width}}{text}" for name, text in lines)


def is_workflow(manifest: Manifest) -> bool:
    """True where the run is one of a workflow."""
    return "workflow" in manifest.command


def describe(folder: Folder) -> WorkflowStatus:
    """The workflow's run in this folder as it is on disk.

    Raises:
        ConfigError: there is none, or its manifest is damaged
        OSError: its files cannot be read
    """
    for _ in range(LOOKS):
        manifest = read_run(folder)
        seen = _Seen()
        for part in manifest.parts:
            try:
                content = fetched(folder, part.name, part.digest)
            except DamagedFile as error:
                seen.damaged[part.name] = str(error)
                continue
            for table in batches(content, _COLUMNS):
                seen.see(table.filter(pc.is_null(table["step"])))
        if not seen.damaged or seen.damaged.keys() <= read_run(folder).files():
            break  # what is wrong is no trace of a writer who went on meanwhile
    return _status(folder, manifest, seen)


class _Seen:
    """What the parts say."""

    def __init__(self) -> None:
        self.damaged: dict[str, str] = {}
        self.finished = self.failed = self.filtered = 0
        self.failures: list[FailedResult] = []
        self._kinds: dict[str, list[int]] = {}  # kind of error -> rows, and the first of them

    def see(self, finished: pa.Table) -> None:
        """Rows that are finished."""
        self.finished += pc.sum(pc.equal(finished["table"], INPUT)).as_py() or 0
        self.failed += pc.sum(finished["failed"]).as_py() or 0
        self.filtered += pc.sum(finished["dropped"]).as_py() or 0
        failed = finished.filter(pc.is_valid(finished["error"]))
        for row in failed.select(["table", "ordinal", "error"]).to_pylist():
            kind = self._kinds.setdefault(kind_of(row["error"]), [0, row["ordinal"]])
            kind[0] += 1
            kind[1] = min(kind[1], row["ordinal"])
            if len(self.failures) < MOST_FAILED:
                self.failures.append(FailedResult(row["table"], row["ordinal"], row["error"]))

    def errors(self) -> list[ErrorKind]:
        """The kinds of errors, the most frequent first."""
        kinds = [ErrorKind(text, rows, first) for text, (rows, first) in self._kinds.items()]
        return sorted(kinds, key=lambda kind: (-kind.rows, kind.error))[:MOST_KINDS]


def _status(folder: Folder, manifest: Manifest, seen: _Seen) -> WorkflowStatus:
    who = holder(folder)
    by_step: Mapping[str, dict[str, Any]] = manifest.facts.get(BY_STEP, {})
    state = "stopped" if manifest.summary_digest is None else "finished"
    return WorkflowStatus(
        run_dir=folder.name,
        state=state if who is None else "running",
        holder=None if who is None else f"{who} since {who.since}",
        rows=manifest.rows,
        finished=seen.finished,
        failed=seen.failed,
        filtered=seen.filtered,
        seconds=round(sum(session.seconds for session in manifest.sessions), 3),
        sessions=len(manifest.sessions),
        parts=len(manifest.parts),
        size_bytes=sum(part.size_bytes for part in manifest.parts),
        steps=dict(by_step),
        errors=seen.errors(),
        damaged=seen.damaged,
        failures=tuple(sorted(seen.failures, key=lambda each: (each.table, each.row))),
    )
