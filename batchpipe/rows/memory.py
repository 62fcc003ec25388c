"""Rows that the caller has in memory, read as those of a job file are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from batchpipe.rows.batch import Record, Rows

BATCH_ROWS = 10_000  # at once: Python objects take several times the bytes of Arrow


@dataclass(frozen=True, slots=True, eq=False)
class MemoryRows:
    """A table, or records where there is none."""

    spec: str  # what the user calls it, for messages
    names: tuple[str, ...]
    table: pa.Table | None = None
    records: Sequence[Record] = ()

    def __len__(self) -> int:
        return len(self.records) if self.table is None else int(self.table.num_rows)

    @property
    def schema(self) -> pa.Schema | None:
        """None where the rows are no table."""
        return None if self.table is None else self.table.schema

    @property
    def readable(self) -> bool:
        """True: all of it is known."""
        return True

    @property
    def from_arrow(self) -> bool:
        """True for a table, whose structs have all keys of their column."""
        return self.table is not None

    @property
    def are_requests(self) -> bool:
        """False: their prompts are of one kind."""
        return False

    def batches(self) -> Iterator[Rows]:
        """All rows in order, at most 10,000 at a time."""
        for first in range(0, len(self), BATCH_ROWS):
            if self.table is None:
                yield Rows(
                    self.names, first=first, records=self.records[first : first + BATCH_ROWS]
                )
            else:
                yield Rows(self.names, first=first, table=self.table.slice(first, BATCH_ROWS))
