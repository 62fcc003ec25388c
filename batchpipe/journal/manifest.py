"""What a run is of and which files hold its results: the commit record, rewritten as a whole.

A file that the manifest does not name is not there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.journal.folder import Folder

SCHEMA_VERSION = 4
MANIFEST = "manifest.json"
SUMMARY = "summary.json"


class Outdated(ConfigError):
    """The manifest is of a run, but damaged or of another version: all to do is to discard it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of results, sorted by row, no row twice."""

    name: str  # parts/000012.parquet
    rows: int
    failed: int  # rows with another status than success
    several: bool  # some row has `outputs`
    digest: str  # of the file
    size_bytes: int  # of the file
    memory_bytes: int  # of the same as Arrow columns
    repair: int = 0  # the repairs that had begun when its rows were answered
    level: int = 0  # how often its rows were merged into larger parts

    @property
    def number(self) -> int:
        """By which `RowStates` knows it."""
        return int(self.name.removeprefix("parts/").removesuffix(".parquet"))

    @staticmethod
    def name_of(number: int) -> str:
        """The file of the part with this number."""
        return f"parts/{number:06d}.parquet"


@dataclass(frozen=True, slots=True)
class Repair:
    """Some rows are answered once more, with other parameters."""

    number: int  # from 1
    rows: int  # how many it selected
    overrides: dict[str, Any]  # what is other for them; the journal does not look into it
    asked: str  # for what, as people read it
    digest: str | None  # of its file; None where that is lost

    @property
    def name(self) -> str:
        """The file with the rows that it selected."""
        return f"repairs/{self.number}.parquet"


@dataclass(frozen=True, slots=True)
class Session:
    """One process's time with the run."""

    started: str  # UTC, by its wall clock: for people only
    seconds: float  # to its last commit, by its steady clock
    rows_before: int  # finished


@dataclass(frozen=True, slots=True)
class Manifest:
    """A run. Everything in it is what JSON can say."""

    fingerprint: dict[str, Any]
    output: str
    command: dict[str, Any]  # the options of the job; the journal does not look into it
    rows: int | None = None  # of the input, once they are counted
    facts: dict[str, Any] = field(default_factory=dict)  # the same
    sessions: tuple[Session, ...] = ()
    repairs: tuple[Repair, ...] = ()
    parts: tuple[Part, ...] = ()
    pace: tuple[tuple[float, int], ...] = ()  # at the last commits: seconds, finished rows
    summary_digest: str | None = None  # of the summary's file; None where the run is not complete

    def files(self) -> set[str]:
        """Every file that is there, but for the manifest itself."""
        named = {part.name for part in self.parts}
        named.update(repair.name for repair in self.repairs if repair.digest is not None)
        return named if self.summary_digest is None else named | {SUMMARY}


def digest_of(content: bytes) -> str:
    """By which damage of the content is found."""
    return blake2b(content, digest_size=16).hexdigest()


def packed(manifest: Manifest) -> bytes:
    """The manifest as its file has it."""
    record = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(manifest)}))
    record["checksum"] = _checksum(record)
    return json.dumps(record, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def read_manifest(folder: Folder) -> Manifest | None:
    """What the folder is a run of; None where it is none.

    Raises:
        Outdated: it is damaged, or of another version of batchpipe
        ConfigError: it cannot be read, or is none of batchpipe's
    """
    where = f"{folder.name.rstrip('/')}/{MANIFEST}"
    try:
        record = json.loads(folder.get(MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read ({error}); choose another --run-dir") from error
    if not isinstance(record, dict):
        record = {}
    checksum = record.pop("checksum", None)
    if not record.keys() & {"fingerprint", "schema_version"}:
        raise ConfigError(f"{where} is none of a run of batchpipe; choose another --run-dir")
    if checksum is None and record.get("schema_version") != SCHEMA_VERSION:
        raise _of_another_version(folder)
    if checksum != _checksum(record):
        raise Outdated(
            f"{where} is damaged: its checksum is not that of its content; give --overwrite to "
            f"compute all rows again, or choose another --run-dir"
        )
    if record.pop("schema_version", None) != SCHEMA_VERSION:
        raise _of_another_version(folder)
    return _manifest(record)


def _of_another_version(folder: Folder) -> Outdated:
    return Outdated(f"{folder.name} was written by another version; give --overwrite or --run-dir")


def _manifest(record: dict[str, Any]) -> Manifest:
    kinds = {"sessions": Session, "repairs": Repair, "parts": Part}
    for name, kind in kinds.items():
        record[name] = tuple(kind(**each) for each in record[name])
    record["pace"] = tuple((seconds, finished) for seconds, finished in record["pace"])
    return Manifest(**record)


def _checksum(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return digest_of(text.encode())
