"""How far a run is, for who asks while it runs or afterwards; nothing is locked or written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from batchpipe.errors import ConfigError
from batchpipe.journal.error_kinds import ErrorKind, ErrorKinds
from batchpipe.journal.folder import Folder
from batchpipe.journal.lock import holder
from batchpipe.journal.manifest import Manifest, read_manifest
from batchpipe.journal.recovery import STATE_COLUMNS, Recovered, recover
from batchpipe.journal.row_states import NO_PART, RowStates
from batchpipe.rows.words import one_line

LOOKS = 20  # at a run whose parts are merged under our eyes
SHOWN_KINDS = 10
INDENT = 20


@dataclass(frozen=True, slots=True)
class RepairStatus:
    """How far a repair is."""

    number: int
    rows: int
    waiting: int  # rows that it selected last and that are not answered since
    asked: str


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is."""

    run_dir: str
    state: str  # "running", "stopped", "repair pending" or "finished"
    holder: str | None  # who writes it now
    rows: int | None
    finished: int
    failed: int
    rows_per_second: float | None  # over the last commits
    seconds_left: float | None  # at that rate, while it runs
    seconds: float  # of all its sessions
    sessions: int
    parts: int
    size_bytes: int
    statuses: dict[str, int]
    finish_reasons: dict[str, int]
    errors: list[ErrorKind]
    repairs: list[RepairStatus]
    damaged: dict[str, str]  # file -> what is wrong with it

    def as_json(self) -> dict[str, Any]:
        """Plain values, in this order."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{name:<{INDENT}}{text}".rstrip() for name, text in _lines(self))


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A run as its files were at one moment."""

    manifest: Manifest
    recovered: Recovered
    errors: ErrorKinds


def describe(folder: Folder) -> Status:
    """The run in this folder as it is on disk.

    Raises:
        ConfigError: there is none, or its manifest is damaged
        OSError: its files cannot be read
    """
    return status_of(folder, look_at(folder))


def look_at(folder: Folder) -> Look:
    """The run in this folder, read while perhaps somebody writes it.

    Raises:
        ConfigError: there is none, or its manifest is damaged
        OSError: its files cannot be read
    """
    for _ in range(LOOKS):
        manifest = read_run(folder)
        errors = ErrorKinds()
        recovered = recover(folder, manifest, errors.see, (*STATE_COLUMNS, "error"))
        damaged = recovered.parts.keys() | recovered.repairs.keys()
        if not damaged or damaged <= read_run(folder).files():
            break  # what is wrong is no trace of a writer who went on meanwhile
    return Look(manifest, recovered, errors)


def read_run(folder: Folder) -> Manifest:
    """What the folder is a run of.

    Raises:
        ConfigError: of nothing, or its manifest is damaged
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ConfigError(f"{folder.name} holds no run: give the run directory, OUT.run")
    return manifest


def status_of(folder: Folder, look: Look) -> Status:
    """How far the run was that was looked at, and who writes it now."""
    manifest, recovered, states = look.manifest, look.recovered, look.recovered.states
    who = holder(folder)
    rate = _rows_per_second(manifest)
    left = (manifest.rows or 0) - states.finished
    answered = states.winner != NO_PART
    return Status(
        run_dir=folder.name,
        state=_state(manifest, states, is_held=who is not None),
        holder=None if who is None else f"{who} since {who.since}",
        rows=manifest.rows,
        finished=states.finished,
        failed=states.failed,
        rows_per_second=rate,
        seconds_left=None if who is None or not rate else round(left / rate, 1),
        seconds=round(sum(session.seconds for session in manifest.sessions), 3),
        sessions=len(manifest.sessions),
        parts=len(manifest.parts),
        size_bytes=sum(part.size_bytes for part in manifest.parts),
        statuses=states.statuses.counts(states.status[answered]),
        finish_reasons=states.finish_reasons.counts(states.finish_reason[answered]),
        errors=look.errors.counted(states.winner),
        repairs=_repairs(manifest, states),
        damaged=recovered.parts | recovered.repairs,
    )


def _state(manifest: Manifest, states: RowStates, *, is_held: bool) -> str:
    if is_held:
        return "running"
    if manifest.summary_digest is not None and states.finished == manifest.rows:
        return "finished"
    return "repair pending" if (~states.done() & (states.required > 0)).any() else "stopped"


def _rows_per_second(manifest: Manifest) -> float | None:
    if len(manifest.pace) < 2:
        return None
    (began, before), (ended, after) = manifest.pace[0], manifest.pace[-1]
    return None if ended <= began else round((after - before) / (ended - began), 3)


def _repairs(manifest: Manifest, states: RowStates) -> list[RepairStatus]:
    waiting = np.bincount(
        states.required[~states.done()], minlength=len(manifest.repairs) + 1
    ).tolist()
    return [
        RepairStatus(repair.number, repair.rows, waiting[repair.number], repair.asked)
        for repair in manifest.repairs
    ]


def _lines(status: Status) -> list[tuple[str, str]]:
    of = "" if status.rows is None else f" of {status.rows:,}"
    share = f" ({status.finished / status.rows:.1%})" if status.rows else ""
    failed = f", {status.failed:,} failed" if status.failed else ""
    lines = [
        ("run", status.run_dir),
        ("state", status.state + (f", by {status.holder}" if status.holder else "")),
        ("rows", f"{status.finished:,}{of} finished{share}{failed}"),
    ]
    if status.rows_per_second:
        left = status.seconds_left
        ends = "" if left is None else f", {_time(left)} left"
        lines.append(("rate", f"{status.rows_per_second:,.3g} rows/s{ends}"))
    lines.append(("time", f"{_time(status.seconds)} in {_counted(status.sessions, 'session')}"))
    lines.append(("on disk", f"{_counted(status.parts, 'part')}, {status.size_bytes:,} bytes"))
    lines += _titled("status", [f"{count:,} {word}" for word, count in status.statuses.items()])
    reasons = [f"{count:,} {word}" for word, count in status.finish_reasons.items()]
    lines += _titled("finish reason", reasons)
    for repair in status.repairs:
        text = f"{repair.rows:,} rows, {repair.waiting:,} of them to do: {repair.asked}"
        lines.append((f"repair {repair.number}", text))
    for kind in status.errors[:SHOWN_KINDS]:
        lines.append(("error", f"{kind.rows:,} rows, the first {kind.example}: {kind.error}"))
    if len(status.errors) > SHOWN_KINDS:
        lines.append(("", f"and {len(status.errors) - SHOWN_KINDS:,} more kinds of errors"))
    lines += [("damaged", f"{name} {what}") for name, what in status.damaged.items()]
    return [(name, one_line(text, 500)) for name, text in lines]


def _titled(name: str, texts: list[str]) -> list[tuple[str, str]]:
    return [(name, ", ".join(texts))] if texts else []


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def _time(seconds: float) -> str:
    for unit_seconds, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.1f} {unit}"
    return f"{seconds:.1f} s"
