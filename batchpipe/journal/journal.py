"""Every result on disk within seconds of being known, and the way back to all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchpipe.journal.commit import commit
from batchpipe.journal.compaction import mergeable, merged
from batchpipe.journal.current import current_results
from batchpipe.journal.folder import Folder
from batchpipe.journal.input_order import in_input_order
from batchpipe.journal.lock import Lock
from batchpipe.journal.manifest import (
    SUMMARY,
    Manifest,
    Part,
    Repair,
    Session,
    digest_of,
)
from batchpipe.journal.part_file import (
    DamagedFile,
    packed_part,
    packed_table,
    table_of,
)
from batchpipe.journal.recovery import forget, recover, sentences, sweep
from batchpipe.journal.row_states import Ordinals, RowStates
from batchpipe.journal.summary_file import packed_summary, summary_of
from batchpipe.rows.results import COLUMNS, Result

FLUSH_ROWS = 5000
FLUSH_BYTES = 32 << 20  # of text and token ids
FLUSH_SECONDS = 5.0
OWN_FIELDS = {"sessions", "repairs", "parts", "pace", "summary_digest"}
RESULT_SCHEMA = pa.schema(list(COLUMNS.items()))
PACE_COMMITS = 16  # whose times are kept, to tell how fast the run is now


@dataclass(frozen=True, slots=True)
class Counts:
    """How far the run is."""

    finished: int  # rows that need nothing more
    failed: int  # those of them whose result is no success


class Journal:
    """The results of one run, by its only writer."""

    def __init__(self, folder: Folder, manifest: Manifest, lock: Lock, states: RowStates) -> None:
        self.folder = folder
        self.damaged: list[str] = []  # what `open` found, a sentence a file
        self._lock = lock
        self._manifest = manifest
        self._states = states
        self._unwritten: list[Result] = []
        self._unwritten_bytes = 0
        self._is_changed = False  # what `record` set is not on disk
        self._next_part = 1 + max((part.number for part in manifest.parts), default=-1)
        self._unmergeable: set[str] = set()
        self._began = self._written = time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._earlier_sessions = manifest.sessions
        self._session = Session(now, 0.0, states.finished)
        self._pace: tuple[tuple[float, int], ...] = ((0.0, states.finished),)

    @classmethod
    def create(cls, folder: Folder, manifest: Manifest, lock: Lock) -> Journal:
        """The folder holds this run without a result; what another run left is gone.

        There is no moment at which it holds neither this run nor the other.
        """
        assert not manifest.parts
        assert not manifest.repairs
        journal = cls(folder, manifest, lock, RowStates(manifest.rows or 0))
        journal._commit("creation")
        sweep(folder, manifest)
        forget(folder)
        return journal

    @classmethod
    def open(cls, folder: Folder, manifest: Manifest, lock: Lock) -> Journal:
        """The run as its files are: what is damaged is left out and told in `damaged`."""
        lock.check()
        recovered = recover(folder, manifest)
        journal = cls(folder, manifest, lock, recovered.states)
        if not recovered.is_whole:
            journal.damaged = sentences(recovered, manifest)
            journal._commit(
                "recovery",
                parts=tuple(part for part in manifest.parts if part.name not in recovered.parts),
                repairs=tuple(
                    replace(repair, digest=None) if repair.name in recovered.repairs else repair
                    for repair in manifest.repairs
                ),
                summary_digest=None,
            )
        sweep(folder, journal.manifest)
        return journal

    @property
    def manifest(self) -> Manifest:
        """With all that was recorded, on disk or not yet."""
        return self._manifest

    @property
    def rows(self) -> int:
        """How many the run has."""
        assert self._manifest.rows is not None, "the rows are not counted yet"
        return self._manifest.rows

    @property
    def counts(self) -> Counts:
        """The results that are not on disk yet count too."""
        return Counts(self._states.finished, self._states.failed)

    @property
    def several(self) -> bool:
        """True where some row has several answers."""
        unwritten = any(result.outputs is not None for result in self._unwritten)
        return unwritten or any(part.several for part in self._manifest.parts)

    def done(self) -> npt.NDArray[np.bool_]:  # [rows]
        """Which rows need nothing more."""
        return self._states.done()

    def required_repair(self) -> npt.NDArray[np.int32]:  # [rows]
        """By row, the last repair that selected it, whose parameters are its own; 0 for none."""
        return self._states.required.copy()

    def select(self, statuses: set[str], finish_reasons: set[str]) -> Ordinals:
        """Rows whose result has one of these statuses or one of these finish reasons."""
        return self._states.select(statuses, finish_reasons)

    def add(self, results: Iterable[Result]) -> None:
        """These results are known, and on disk within a few seconds; none is of a finished row."""
        new = list(results)
        while new:
            room = FLUSH_ROWS - len(self._unwritten)
            some, new = new[:room], new[room:]
            ordinals = [result.ordinal for result in some]
            assert 0 <= min(ordinals) <= max(ordinals) < self.rows, f"{self.rows} rows: {ordinals}"
            self._states.add(some, self._next_part, len(self._manifest.repairs))
            self._unwritten += some
            self._unwritten_bytes += sum(map(_size_bytes, some))
            if len(self._unwritten) >= FLUSH_ROWS or self._unwritten_bytes >= FLUSH_BYTES:
                self.flush()
        if self._unwritten and time.monotonic() - self._written >= FLUSH_SECONDS:
            self.flush()

    def record(self, **changes: Any) -> None:
        """These fields of the manifest are so (`facts`, say), on disk with the next commit."""
        assert not changes.keys() & OWN_FIELDS, f"{sorted(changes)}: the journal sets these itself"
        if "rows" in changes and changes["rows"] != self._manifest.rows:
            assert not self._states.finished, "rows are counted before they are answered"
            self._states = RowStates(changes["rows"])
        self._manifest = replace(self._manifest, **changes)
        self._is_changed = True

    def flush(self) -> None:
        """Everything known is on disk."""
        self._written = time.monotonic()
        if not self._unwritten:
            if self._is_changed:
                self._commit("flush")
            return
        repair = len(self._manifest.repairs)
        table = table_of(self._unwritten)
        part, content = packed_part(table, self._next_part, repair=repair, level=0)
        self._commit("flush", {part.name: content}, parts=(*self._needed_parts(), part))
        self._next_part += 1
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._compact()

    def begin_repair(self, selected: Ordinals, overrides: dict[str, Any], asked: str = "") -> None:
        """The selected rows are to be answered once more; until then their old results stay."""
        self.flush()
        content = packed_table(pa.table({"ordinal": np.unique(selected)}))
        number = len(self._manifest.repairs) + 1
        repair = Repair(number, len(np.unique(selected)), overrides, asked, digest_of(content))
        self._commit(
            "repair",
            {repair.name: content},
            repairs=(*self._manifest.repairs, repair),
            summary_digest=None,
        )
        self._states.require(selected, number)
        self._states.count()
        self._pace = ((self._pace[-1][0], self._states.finished),)

    def tables(self) -> Iterator[pa.Table]:
        """The results of all rows, each once, in the order of the input, some at a time.

        Raises:
            StoppedEarly: a part was damaged since it was read or written last
        """
        self.flush()
        current = current_results(self.folder, self._manifest.parts, self._states.winner)
        for table in in_input_order(current, self.rows):
            # Parquet gives other names to the items of lists.
            yield table.select(RESULT_SCHEMA.names).cast(RESULT_SCHEMA)

    def keep(self, name: str, content: bytes) -> None:
        """A file beside the results that none of them needs: the manifest does not name it.

        Raises:
            OSError: it cannot be written
        """
        self._lock.check()
        self.folder.put(name, content)

    @property
    def session(self) -> tuple[int, str]:
        """Which of the run's sessions this is, from 1, and when it started."""
        return len(self._earlier_sessions) + 1, self._session.started

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete, and this is its summary."""
        self.flush()
        content = packed_summary(summary)
        self._commit("finish", {SUMMARY: content}, summary_digest=digest_of(content))

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `finish` was given; None where the run is not complete."""
        return summary_of(self.folder, self._manifest)

    def _commit(self, kind: str, files: dict[str, bytes] | None = None, **changes: Any) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        sessions = (*self._earlier_sessions, replace(self._session, seconds=seconds))
        self._pace = (*self._pace, (seconds, self._states.finished))[-PACE_COMMITS:]
        after = replace(self._manifest, sessions=sessions, pace=self._pace, **changes)
        commit(self.folder, self._lock, kind, self._manifest, after, files or {})
        self._manifest, self._is_changed = after, False

    def _needed_parts(self) -> tuple[Part, ...]:
        """All parts, save those of which every row has a newer result."""
        parts = self._manifest.parts
        if not self._manifest.repairs:
            return parts
        needed = self._states.needed_parts()
        return tuple(part for part in parts if part.number in needed)

    def _compact(self) -> None:
        while sources := mergeable(self._manifest.parts, self._unmergeable):
            try:
                self._merge(sources, merged(self.folder, sources, self._states))
            except DamagedFile as error:  # told when the results are read
                self._unmergeable.add(error.name)

    def _merge(self, sources: list[Part], table: pa.Table) -> None:
        """One part has the rows of these parts, which are not there any more."""
        repair, level = sources[0].repair, sources[0].level + 1
        part, content = packed_part(table, self._next_part, repair=repair, level=level)
        others = tuple(other for other in self._manifest.parts if other not in sources)
        self._commit("compaction", {part.name: content}, parts=(*others, part))
        numbers = np.array([source.number for source in sources], dtype=np.int32)
        self._states.move(table["ordinal"].to_numpy(), numbers, part.number)
        self._next_part += 1


def _size_bytes(result: Result) -> int:
    """About what it takes in memory as columns."""
    size_bytes = len(result.output or result.error or "") + 4 * len(result.output_token_ids or ())
    told = (result.logprobs, *(result.outputs_logprobs or ()), result.prompt_logprobs)
    size_bytes += sum(int(cell.nbytes) for cell in told if cell is not None)
    size_bytes += len(result.parsed or "")
    return size_bytes + sum(map(len, result.outputs)) if result.outputs else size_bytes
