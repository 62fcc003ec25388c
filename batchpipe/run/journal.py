"""The run directory: what was asked, and every result as soon as it is known.

manifest.json      what the run is of; a resume with another fingerprint is refused
parts/*.parquet    results, each row once, each file whole or not there
summary.json       written at the end
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.errors import ConfigError
from batchpipe.rows.atomic import written_whole
from batchpipe.rows.results import COLUMNS, Result

SCHEMA_VERSION = 1
FLUSH_SECONDS = 5.0
FLUSH_ROWS = 5000
SCHEMA = pa.schema([("ordinal", pa.int64()), *COLUMNS.items()])


class Journal:
    """Results on disk, and the way back to them."""

    def __init__(self, folder: Path, results: dict[int, Result], summary: dict[str, Any] | None):
        self.folder = folder
        self.results = results  # by row
        self.summary = summary  # of the finished run, if it finished
        self._unwritten: list[Result] = []
        self._written_at = time.monotonic()
        self._parts = len(list((folder / "parts").glob("*.parquet")))

    @classmethod
    def open(cls, folder: Path, fingerprint: dict[str, Any], *, overwrite: bool) -> Journal:
        """The journal of this very run: its results so far, or a new one.

        Raises:
            ConfigError: the directory belongs to a run of something else, and how it differs
        """
        manifest = folder / "manifest.json"
        if overwrite and manifest.is_file():
            shutil.rmtree(folder)
        if not manifest.is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise ConfigError(
                    f"{folder} is no run directory and not empty; choose another --run-dir"
                )
            (folder / "parts").mkdir(parents=True, exist_ok=True)
            _write_json(manifest, {"schema_version": SCHEMA_VERSION, "fingerprint": fingerprint})
            return cls(folder, {}, None)
        known = json.loads(manifest.read_text())
        _check_same(folder, known, fingerprint)
        summary_file = folder / "summary.json"
        summary = json.loads(summary_file.read_text()) if summary_file.is_file() else None
        return cls(folder, _read_parts(folder / "parts"), summary)

    def add(self, results: Iterable[Result]) -> None:
        """These results are known, and on disk within a few seconds."""
        for result in results:
            assert result.ordinal not in self.results, f"row {result.ordinal} has two results"
            self.results[result.ordinal] = result
            self._unwritten.append(result)
        waited = time.monotonic() - self._written_at
        if len(self._unwritten) >= FLUSH_ROWS or (self._unwritten and waited >= FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Every result known is on disk."""
        self._written_at = time.monotonic()
        if not self._unwritten:
            return
        columns = {
            name: [getattr(result, name) for result in self._unwritten] for name in SCHEMA.names
        }
        path = self.folder / "parts" / f"part-{self._parts:06d}.parquet"
        with written_whole(str(path)) as stream:
            pq.write_table(pa.table(columns, schema=SCHEMA), stream, compression="zstd")
        self._parts += 1
        self._unwritten.clear()

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete."""
        self.flush()
        self.summary = summary
        _write_json(self.folder / "summary.json", summary)


def _check_same(folder: Path, known: dict[str, Any], fingerprint: dict[str, Any]) -> None:
    if known.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(f"{folder} was written by another version; give --overwrite or --run-dir")
    before = known["fingerprint"]
    changed = [
        f"{name} was {before.get(name)!r} and is {fingerprint.get(name)!r}"
        for name in sorted({*before, *fingerprint})
        if before.get(name) != fingerprint.get(name)
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds a run of something else: {'; '.join(changed)}. Give --overwrite to "
            f"discard it, or another --run-dir"
        )


def _read_parts(folder: Path) -> dict[int, Result]:
    results: dict[int, Result] = {}
    for part in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(part).to_pylist():
            for name in ("outputs", "output_token_ids"):
                row[name] = None if row[name] is None else tuple(row[name])
            results[row["ordinal"]] = Result(**row)
    return results


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with written_whole(os.fspath(path)) as stream:
        stream.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


assert {field.name for field in fields(Result)} == set(SCHEMA.names)
