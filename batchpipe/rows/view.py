"""Lines that are requests to an API, seen as the rows of a job."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from batchpipe.rows.batch import Record, Rows


class View(Protocol):
    """What makes a job's row of a line."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that its rows may have."""

    def row(self, line: Record) -> tuple[Record, str]:
        """The row, and why it cannot run: empty where it can."""


def viewed(rows: Rows, view: View) -> Rows:
    """The same rows as the view makes them; a sentence says in which line one cannot run."""
    faults = dict(rows.faults)
    records: list[Record | None] = []
    for place, line in enumerate(rows.records):
        row, why = (None, "") if line is None else view.row(line)
        records.append(row)
        if why:
            faults[place] = rows.named(place, why)
    return replace(rows, names=view.columns, faults=MappingProxyType(faults), records=records)
