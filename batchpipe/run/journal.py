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
from batchpipe.rows.words import shown

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
    def open(
        cls, folder: Path, fingerprint: dict[str, Any], *, output: str, overwrite: bool
    ) -> Journal:
        """The journal of this very run: its results so far, or a new one.

        Raises:
            ConfigError: the directory belongs to a run of something else, and how it differs
        """
        known = read_manifest(folder)
        if known is None:
            _refuse_foreign(folder)
        elif overwrite or _is_barren(folder):
            _discard(folder)
            known = None
        else:
            _check_same(folder, known, fingerprint)
        _make_folder(folder)
        manifest = {"schema_version": SCHEMA_VERSION, "fingerprint": fingerprint, "output": output}
        if manifest != known:
            _write_json(folder / "manifest.json", manifest)
        (folder / "parts").mkdir(exist_ok=True)
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


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the directory is a run of; None where it is none."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / 'manifest.json'} cannot be read ({error}); choose another --run-dir"
        ) from error
    if not isinstance(manifest, dict) or "fingerprint" not in manifest:
        raise ConfigError(
            f"{folder / 'manifest.json'} is none of a run of batchpipe; choose another --run-dir"
        )
    return manifest


def _discard(folder: Path) -> None:
    """The directory is no run any more; files that no run writes stay. The manifest goes last."""
    (folder / "summary.json").unlink(missing_ok=True)
    if (folder / "parts").is_dir():
        shutil.rmtree(folder / "parts")
    (folder / "manifest.json").unlink()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run directory {folder} cannot be made ({error.strerror}); choose another "
            f"with --run-dir"
        ) from error


def _is_barren(folder: Path) -> bool:
    """True where the run ended before it had a result: its model had no weights, say."""
    return not (folder / "summary.json").exists() and not any((folder / "parts").glob("*.parquet"))


def _refuse_foreign(folder: Path) -> None:
    """Raise where the directory holds what a run killed at its very start cannot have left."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; choose another --run-dir")
    left = () if not folder.exists() else folder.iterdir()
    if any(not path.name.startswith(".manifest.json.") for path in left):
        raise ConfigError(f"{folder} is no run directory and not empty; choose another --run-dir")


def _check_same(folder: Path, known: dict[str, Any], fingerprint: dict[str, Any]) -> None:
    if known.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(f"{folder} was written by another version; give --overwrite or --run-dir")
    before = known["fingerprint"]
    changed = [
        f"{name} was {shown(before.get(name))} and is {shown(fingerprint.get(name))}"
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
