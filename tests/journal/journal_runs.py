"""Runs without a model: results out of a hat, and processes that die where the test wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from batchpipe.journal import moments
from batchpipe.journal.folder import Folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.manifest import Manifest, read_manifest
from batchpipe.rows.results import Result


class Killed(BaseException):
    """What a test has in place of kill -9; nothing in the journal catches it."""


@dataclass
class Unlocked:
    """A lock for the tests that are not about it."""

    def check(self) -> None: ...

    def release(self) -> None: ...

    def __enter__(self) -> Unlocked:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def kill_at(moment: str | None, times: int = 1) -> None:
    """The process dies when it comes to this moment, or to any, for the so many-th time."""
    left = times

    def hook(name: str) -> None:
        nonlocal left
        if moment in (None, name):
            left -= 1
            if not left:
                raise Killed(name)

    moments.hook = hook


@contextmanager
def seen_moments() -> Iterator[list[str]]:
    """All moments that are reached in the block."""
    seen: list[str] = []
    moments.hook = seen.append
    try:
        yield seen
    finally:
        moments.hook = None


def new_manifest(rows: int | None, **more: Any) -> Manifest:
    return Manifest({"seed": 0}, "/answers.jsonl", {"job": {"seed": 0}}, rows, **more)


def create(folder: Folder, rows: int) -> Journal:
    return Journal.create(folder, new_manifest(rows), Unlocked())


def reopen(folder: Folder) -> Journal:
    manifest = read_manifest(folder)
    assert manifest is not None
    return Journal.open(folder, manifest, Unlocked())


def good(row: int, text: str = "") -> Result:
    return Result(
        row,
        output=f"answer {row} {text}",
        finish_reason="length" if row % 3 else "stop",
        prompt_tokens=row,
        completion_tokens=2,
        output_token_ids=(row, 2),
    )


def bad(row: int, text: str = "") -> Result:
    return Result.failed(row, f"row {row} is too long {text}")


def results_of(journal: Journal) -> list[Result]:
    """By the tables, as the writer of OUT sees them."""
    found = []
    for table in journal.tables():
        for row in table.to_pylist():
            for name in ("outputs", "finish_reasons", "output_token_ids"):
                row[name] = None if row[name] is None else tuple(row[name])
            found.append(Result(len(found), **row))
    return found


def check_files(folder: Folder) -> None:
    """What lies in the folder is what the manifest names."""
    manifest = read_manifest(folder)
    assert manifest is not None
    found = {
        f"{under}/{name}" for under in ("parts", "repairs") for name in folder.names(under)
    } | ({"summary.json"} & set(folder.names()))
    assert found == manifest.files()
