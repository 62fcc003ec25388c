"""Rows on their way into memory: the input's, then groups, each with what is known of it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchpipe.planner.query.graph import INPUT
from batchpipe.rows.batch import RowSource
from batchpipe.workflow.journal.journal import StepJournal
from batchpipe.workflow.journal.records import Record, records_of
from batchpipe.workflow.kinds.groups import Groups
from batchpipe.workflow.running.levels import Levels

Place = tuple[str, tuple[int, ...], int]  # step, key without the ordinal, stage


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a table that is not finished."""

    table: str
    ordinal: int
    values: Mapping[str, Any] = field(default_factory=dict)
    causes: Mapping[str, str] = field(default_factory=dict)
    fault: str | None = None  # why it cannot be read
    known: Mapping[Place, Record] = field(default_factory=dict)  # outcomes of before


class Tables:
    """The rows of all tables: how many there are, and which are whole enough to be grouped."""

    def __init__(
        self,
        levels: Levels,
        source: RowSource,
        columns: list[str],  # of the source that the steps read
        groups: Mapping[str, Groups],  # by the table that they are the rows of
        journal: StepJournal,
    ) -> None:
        self.groups = groups
        self._levels, self._source, self._columns = levels, source, columns
        self._journal = journal
        self._made: dict[str, list[tuple[dict[str, Any], str | None]]] = {}
        self._done: dict[str, npt.NDArray[np.bool_]] = {}  # group-by -> rows that have brought
        self._missing: dict[str, int] = {}
        self._expect(INPUT, len(source))
        self._recall(INPUT)

    def rows(self, table: str) -> int | None:
        """How many the table has; None while its groups are not known."""
        if table == INPUT:
            return len(self._source)
        return len(self._made[table]) if table in self._made else None

    def brought(self, group_by: str, ordinal: int, members: list[list[Any]]) -> None:
        """The row has brought these to groups, and brings no others."""
        self.groups[group_by].bring(ordinal, members)
        self.ended(group_by, ordinal)

    def ended(self, group_by: str, ordinal: int) -> None:
        """The row brings no more."""
        if not self._done[group_by][ordinal]:
            self._done[group_by][ordinal] = True
            self._missing[group_by] -= 1

    def gathered_from(self, table: str) -> list[str]:
        """The group-bys whose groups are made of the table's rows."""
        gathers = self._levels.gathers.values()
        return [each.name for each in gathers if each.makes_groups and each.at == table]

    def left(self) -> int | None:
        """Rows that are not finished; None while some table's are not known."""
        left = 0
        for table in self._levels.tables:
            if not self.is_made(table):
                return None
            left += (self.rows(table) or 0) - self._journal.finished(table)
        return left

    def entries(self, table: str) -> Iterator[Entry]:
        """The rows of the table that are not finished, with what is known of them."""
        if not self.is_made(table):
            return
        rows = self.rows(table)
        assert rows is not None
        known = _Known(self._journal, table, rows)
        for entry in self._all(table):
            if not self._journal.is_finished(table, entry.ordinal):
                found = known.of(entry.ordinal)
                yield Entry(table, entry.ordinal, entry.values, entry.causes, entry.fault, found)

    def is_made(self, table: str) -> bool:
        """True where the table's rows are known, which those of groups are now if they can be."""
        if table == INPUT or table in self._made:
            return True
        if self._missing.get(table, 1):
            return False
        self._made[table] = self.groups[table].made()
        self._expect(table, len(self._made[table]))
        self._recall(table)
        return True

    def _expect(self, table: str, rows: int) -> None:
        for group_by in self.gathered_from(table):
            self._done[group_by] = np.zeros(rows, dtype=np.bool_)
            self._missing[group_by] = rows

    def _recall(self, table: str) -> None:
        """What finished rows have brought to groups is known."""
        names = self.gathered_from(table)
        for found in self._journal.finished_so_far(table) if names else ():
            for record in records_of(found):
                gathered = json.loads(record.content or "{}")["gathered"]
                for name in names:
                    self.brought(name, record.ordinal, gathered.get(name, []))

    def _all(self, table: str) -> Iterator[Entry]:
        if table != INPUT:
            name = self.groups[table].step.name
            for ordinal, (values, cause) in enumerate(self._made[table]):
                causes = {} if cause is None else {name: cause}
                yield Entry(table, ordinal, {name: values}, causes)
            return
        for rows in self._source.batches():
            for place, values in enumerate(rows.mappings(self._columns)):
                ordinal = rows.first + place
                yield Entry(table, ordinal, values, fault=rows.faults.get(place))


class _Known:
    """The outcomes of a table's rows, which are asked for in rising order."""

    def __init__(self, journal: StepJournal, table: str, rows: int) -> None:
        self._records = (r for t in journal.outcomes(table, rows) for r in records_of(t))
        self._next: deque[Record] = deque(maxlen=1)

    def of(self, ordinal: int) -> dict[Place, Record]:
        found: dict[Place, Record] = {}
        while True:
            record = self._next.popleft() if self._next else next(self._records, None)
            if record is None:
                return found
            if record.ordinal > ordinal:
                self._next.append(record)
                return found
            if record.ordinal == ordinal:
                assert record.step is not None, "rows that are finished are not asked for"
                found[record.step, record.below, record.stage] = record


class Admission:
    """The tables' rows one by one; a table of groups begins once its rows are known."""

    def __init__(self, levels: Levels, tables: Tables) -> None:
        self._tables = tables
        self._coming = list(levels.tables)
        self._rows: Iterator[Entry] = iter(())

    def next(self) -> Entry | None:
        """The next row; None where there is none now."""
        while True:
            entry = next(self._rows, None)
            if entry is not None:
                return entry
            ready = (each for each in self._coming if self._tables.is_made(each))
            table = next(ready, None)
            if table is None:
                return None
            self._coming.remove(table)
            self._rows = self._tables.entries(table)
