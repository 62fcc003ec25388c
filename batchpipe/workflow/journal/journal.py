"""Every outcome of a workflow on disk within seconds, and the way back into the middle of it.

A row of a table that is finished has one record with all that the results need of it. What else is
kept of it are its steps' outcomes, by which equal questions are answered and the report is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.errors import StoppedEarly
from batchpipe.journal.commit import commit
from batchpipe.journal.compaction import mergeable
from batchpipe.journal.folder import Folder
from batchpipe.journal.input_order import by_ordinal, in_input_order
from batchpipe.journal.journal import PACE_COMMITS
from batchpipe.journal.lock import Lock
from batchpipe.journal.manifest import SUMMARY, Manifest, Part, Session, digest_of
from batchpipe.journal.part_file import DamagedFile, batches, fetched
from batchpipe.journal.recovery import forget, sweep
from batchpipe.journal.summary_file import packed_summary, summary_of
from batchpipe.planner.query.graph import INPUT
from batchpipe.workflow.journal.records import FINAL, SCHEMA, Record, packed_part, table_of

FLUSH_RECORDS = 20_000
FLUSH_BYTES = 32 << 20
FLUSH_SECONDS = 5.0


class StepJournal:
    """The outcomes of one run of a workflow, by its only writer."""

    def __init__(self, folder: Folder, manifest: Manifest, lock: Lock) -> None:
        self.folder = folder
        self.manifest = manifest
        self.facts: Callable[[], dict[str, Any]] = lambda: self.manifest.facts  # of the next part
        self.damaged: list[str] = []  # what `open` found, a sentence a file
        self.records = 0  # that this session added
        self.failed = 0  # results that are errors
        self.dropped = 0  # rows, by filters
        self._lock = lock
        self._finished: dict[str, npt.NDArray[np.bool_]] = {}
        self._unwritten: list[Record] = []
        self._unwritten_bytes = 0
        self._next_part = 1 + max((part.number for part in manifest.parts), default=-1)
        self._began = self._written = time.monotonic()
        self._earlier = manifest.sessions
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._session = Session(now, 0.0, 0)

    @classmethod
    def create(cls, folder: Folder, manifest: Manifest, lock: Lock) -> StepJournal:
        """The folder holds this run without an outcome; what another run left is gone."""
        journal = cls(folder, manifest, lock)
        journal._commit("creation")
        sweep(folder, manifest)
        forget(folder)
        return journal

    @classmethod
    def open(cls, folder: Folder, manifest: Manifest, lock: Lock) -> StepJournal:
        """The run as its files are: what is damaged is left out and told in `damaged`."""
        lock.check()
        journal = cls(folder, manifest, lock)
        whole: list[Part] = []
        for part in manifest.parts:
            try:
                content = fetched(folder, part.name, part.digest)
            except DamagedFile as error:
                journal.damaged.append(f"{part.name} {error}; what it held is computed again")
                continue
            whole.append(part)
            for table in batches(content, ("table", "ordinal", "step", "failed", "dropped")):
                journal._take_finished(table)
        if journal.damaged:
            journal._commit("recovery", parts=tuple(whole), summary_digest=None)
        journal._session = replace(journal._session, rows_before=journal.finished(INPUT))
        sweep(folder, journal.manifest)
        return journal

    def is_finished(self, table: str, ordinal: int) -> bool:
        """True where the row's results are known."""
        found = self._finished.get(table)
        return found is not None and ordinal < len(found) and bool(found[ordinal])

    def finished(self, table: str) -> int:
        """How many rows of the table are."""
        found = self._finished.get(table)
        return 0 if found is None else int(found.sum())

    def add(self, record: Record) -> None:
        """The record is known, and on disk with the next `flush`."""
        self._unwritten.append(record)
        self.records += 1
        self._unwritten_bytes += record.size_bytes
        if record.step is None:
            self._mark(record.table, np.array([record.ordinal]))
            self.failed += record.failed
            self.dropped += record.dropped

    def flush_if_due(self) -> None:
        """What waits for longer than a few seconds, or is much, is on disk."""
        due = time.monotonic() - self._written >= FLUSH_SECONDS
        much = len(self._unwritten) >= FLUSH_RECORDS or self._unwritten_bytes >= FLUSH_BYTES
        if self._unwritten and (due or much):
            self.flush()

    def flush(self) -> None:
        """Everything known is on disk, and with it what it has cost."""
        self._written = time.monotonic()
        if not self._unwritten:
            return
        part, content = packed_part(table_of(self._unwritten), self._next_part, level=0)
        parts = (*self.manifest.parts, part)
        self._commit("flush", {part.name: content}, parts=parts, facts=self.facts())
        self._next_part += 1
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._compact()

    def outcomes(self, table: str, rows: int) -> Iterator[pa.Table]:
        """What is known of the table's rows that are not finished, in their order."""
        done = self._finished.get(table, np.zeros(0, dtype=np.bool_))

        def left(found: pa.Table) -> pa.Table:
            ordinals = found["ordinal"].to_numpy()
            known = np.zeros(max(rows, len(done), int(ordinals.max(initial=0)) + 1), dtype=np.bool_)
            known[: len(done)] = done
            return found.filter(pa.array(~known[ordinals]))

        some = self._tables(lambda t: pc.and_(pc.equal(t["table"], table), pc.is_valid(t["step"])))
        return by_ordinal((left(found) for found in some), rows)

    def results(self, table: str, rows: int) -> Iterator[pa.Table]:
        """The records of the table's finished rows, which are all of them, in their order."""
        found = self._tables(lambda t: pc.and_(pc.equal(t["table"], table), pc.is_null(t["step"])))
        return in_input_order(found, rows)

    def finished_so_far(self, table: str) -> Iterator[pa.Table]:
        """The same of those that are finished by now, in any order."""
        return self._tables(lambda t: pc.and_(pc.equal(t["table"], table), pc.is_null(t["step"])))

    def answered(self) -> Iterator[tuple[bytes, str]]:
        """The questions that are answered, by their digests, and the values as JSON."""
        for table in self._tables(_final):
            yield from zip(table["digest"].to_pylist(), table["content"].to_pylist(), strict=True)

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete, and this is its summary."""
        content = packed_summary(summary)
        self._commit("finish", {SUMMARY: content}, summary_digest=digest_of(content))

    def record(self, **changes: Any) -> None:
        """These fields of the manifest are so, on disk with the next commit."""
        self.manifest = replace(self.manifest, **changes)

    def keep(self, name: str, content: bytes) -> None:
        """A file beside the outcomes that none of them needs."""
        self._lock.check()
        self.folder.put(name, content)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `finish` was given; None where the run is not complete."""
        return summary_of(self.folder, self.manifest)

    def _tables(self, wanted: Callable[[pa.Table], pa.Array]) -> Iterator[pa.Table]:
        self.flush()
        for part in self.manifest.parts:
            try:
                content = fetched(self.folder, part.name, part.digest)
            except DamagedFile as error:
                raise StoppedEarly(
                    f"{self.folder.name}: {error.name} {error}; the same command computes its "
                    f"rows again"
                ) from error
            for table in batches(content):
                found = table.cast(SCHEMA)
                yield found.filter(wanted(found))

    def _take_finished(self, table: pa.Table) -> None:
        finished = table.filter(pc.is_null(table["step"]))
        for name in pc.unique(finished["table"]).to_pylist():
            some = finished.filter(pc.equal(finished["table"], name))
            self._mark(name, some["ordinal"].to_numpy())
        self.failed += pc.sum(finished["failed"]).as_py() or 0
        self.dropped += pc.sum(finished["dropped"]).as_py() or 0

    def _mark(self, table: str, ordinals: npt.NDArray[np.int64]) -> None:
        known = self._finished.get(table)
        if known is None:
            known = self._finished[table] = np.zeros(1024, dtype=np.bool_)
        most = int(ordinals.max(initial=-1)) + 1
        if most > len(known):
            grown = np.zeros(max(most, 2 * len(known)), dtype=np.bool_)
            grown[: len(known)] = known
            self._finished[table] = known = grown
        assert not known[ordinals].any(), f"a row of {table or 'the input'} is finished twice"
        known[ordinals] = True

    def _compact(self) -> None:
        while sources := mergeable(self.manifest.parts):
            try:
                tables = [
                    table.cast(SCHEMA)
                    for part in sources
                    for table in batches(fetched(self.folder, part.name, part.digest))
                ]
            except DamagedFile:  # told when the outcomes are read
                return
            merged, level = pa.concat_tables(tables), sources[0].level + 1
            part, content = packed_part(merged, self._next_part, level=level)
            others = tuple(other for other in self.manifest.parts if other not in sources)
            self._commit("compaction", {part.name: content}, parts=(*others, part))
            self._next_part += 1

    def _commit(self, kind: str, files: dict[str, bytes] | None = None, **changes: Any) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        finished = self.finished(INPUT)
        after = replace(
            self.manifest,
            sessions=(*self._earlier, replace(self._session, seconds=seconds)),
            pace=(*self.manifest.pace, (seconds, finished))[-PACE_COMMITS:],
            **changes,
        )
        commit(self.folder, self._lock, kind, self.manifest, after, files or {})
        self.manifest = after


def _final(table: pa.Table) -> pa.Array:
    """Which outcomes answer equal questions."""
    found = pc.and_(pc.is_valid(table["digest"]), pc.is_null(table["error"]))
    return pc.and_(found, pc.equal(table["stage"], FINAL))
