"""Consecutive rows in memory: what one file gives at a time, and what the job sees at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import pyarrow as pa

from batchpipe.rows.arrow import content_hashes, row_batches, to_python
from batchpipe.rows.location import Format

Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file's rows are ``ordinals[first : first + rows]`` of the whole input."""

    path: str  # as the user named it
    name: str  # the same from any working directory
    format: Format
    rows: int
    first: int
    state: str  # another one where the file was changed


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive rows of one file: a table from Parquet, records and their hashes from lines."""

    size_bytes: int
    faults: Mapping[int, str]  # place in the piece -> sentence
    table: pa.Table | None = None
    records: Sequence[Record | None] = ()  # used where there is no table; None: see faults
    hashes: Sequence[str] = ()
    lines: Sequence[int] = ()  # numbers of the lines; empty for what came from Parquet

    def __len__(self) -> int:
        return len(self.records) if self.table is None else int(self.table.num_rows)

    def as_records(self) -> Piece:
        """The same rows without a table."""
        if self.table is None:
            return self
        records = list(row_batches(self.table, self.table.column_names))
        hashes = content_hashes(self.table)
        return Piece(self.size_bytes, self.faults, records=records, hashes=hashes)


@dataclass(frozen=True, eq=False)
class Rows:
    """A run of consecutive input rows: an Arrow table, or parsed objects where JSON lines are in.

    ``faults`` has one sentence for every row that could not be read. A *place* counts from the
    first row here, an *ordinal* from the first row of the input: ``ordinal = first + place``.
    """

    names: tuple[str, ...]  # columns of the whole input, in first-seen order
    files: tuple[SourceFile, ...] = ()  # of the whole input
    first: int = 0  # ordinal of the first row
    faults: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))  # by place
    table: pa.Table | None = None
    records: Sequence[Record | None] = ()  # used where there is no table; None: see faults
    record_hashes: Sequence[str] = ()
    lines: Sequence[int] = ()  # of JSON lines their numbers, 0 for a row from Parquet

    def __len__(self) -> int:
        return len(self.records) if self.table is None else int(self.table.num_rows)

    def values(self, name: str) -> list[object]:
        """One column as Python objects, None where it is missing."""
        if name not in self.names:
            raise KeyError(name)
        if self.table is None:
            return [None if record is None else record.get(name) for record in self.records]
        return to_python(self.table.column(name))

    def mappings(self, names: Sequence[str]) -> Iterator[dict[str, object]]:
        """Every row as a dict of these columns; a key that a JSON line lacks is absent."""
        if self.table is not None:
            yield from row_batches(self.table, list(names))
            return
        for record in self.records:
            present = record or {}
            yield {name: present[name] for name in names if name in present}

    def record(self, place: int) -> dict[str, object]:
        """One row as a dict; a key that a JSON line lacks is absent."""
        if self.table is None:
            return dict(self.records[place] or {})
        return next(row_batches(self.table.slice(place, 1), self.table.column_names))

    @cached_property
    def hashes(self) -> Sequence[str]:
        """The content hash of every row, 16 hex characters."""
        return self.record_hashes if self.table is None else content_hashes(self.table)

    def file_of(self, place: int) -> tuple[SourceFile, int]:
        """The row's file, and which row of that file it is."""
        ordinal = self.first + place
        file = self.files[bisect_right(self._firsts, ordinal) - 1]
        return file, ordinal - file.first

    def identity(self, place: int) -> tuple[str, int, str]:
        """(file, row in that file, hash of the row's content): names a row across runs."""
        file, row = self.file_of(place)
        return file.name, row, self.hashes[place]

    def where(self, place: int) -> str:
        """The row's place as an editor shows it: ``jobs.jsonl line 7``."""
        file, row = self.file_of(place)
        line = self.lines[place] if self.lines else 0
        return f"{file.name} line {line}" if line else f"{file.name} row {row}"

    def named(self, place: int, why: str) -> str:
        """The sentence behind the row's place; one that begins with it stays as it is."""
        where = self.where(place)
        return why if why.startswith(where) else f"{where}: {why}"

    @cached_property
    def _firsts(self) -> list[int]:
        return [file.first for file in self.files]


class RowSource(Protocol):
    """All input rows, wherever they are; every pass over them gives the same."""

    @property
    def spec(self) -> str:
        """What the user calls it, for messages."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns, in first-seen order."""

    @property
    def schema(self) -> pa.Schema | None:
        """None where the rows are no table."""

    @property
    def readable(self) -> bool:
        """False where nothing is known to be in it."""

    @property
    def from_arrow(self) -> bool:
        """True where some cell comes from a table, whose structs have all keys of their column."""

    @property
    def are_requests(self) -> bool:
        """True where the rows are requests to an API, which may be of every kind of prompt."""

    def __len__(self) -> int: ...

    def batches(self) -> Iterator[Rows]:
        """All rows in order, some at a time."""


def joined_rows(
    pieces: Sequence[Piece],
    *,
    names: tuple[str, ...],
    files: tuple[SourceFile, ...],
    first: int,
    schema: pa.Schema | None,
) -> Rows:
    """The rows of all pieces, one behind the other; one table where there is a ``schema``."""
    faults: dict[int, str] = {}
    records: list[Record | None] = []
    hashes: list[str] = []
    lines: list[int] = []
    tables = [] if schema is None else [schema.empty_table()]
    place = 0
    for piece in pieces:
        faults.update((place + row, sentence) for row, sentence in piece.faults.items())
        place += len(piece)
        records.extend(piece.records)
        hashes.extend(piece.hashes)
        lines.extend(piece.lines or [0] * len(piece))
        if piece.table is not None:
            tables.append(piece.table)
    return Rows(
        names,
        files,
        first,
        MappingProxyType(faults),
        table=None if schema is None else pa.concat_tables(tables[1:] or tables),
        records=records,
        record_hashes=hashes,
        lines=lines,
    )
