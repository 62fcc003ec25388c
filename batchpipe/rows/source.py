"""Job files as one table of rows, each with a place, a content hash and all of its columns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import pyarrow as pa

from batchpipe.errors import ConfigError
from batchpipe.rows.arrow import content_hashes, row_batches, to_python
from batchpipe.rows.jsonl import Record, read_lines
from batchpipe.rows.location import Format, Location, find_files, reading
from batchpipe.rows.parquet import read_table, without_bad_text


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file's rows are ``ordinals[first : first + rows]`` of the whole input."""

    path: str  # as the user named it
    name: str  # the same from any working directory
    format: Format
    rows: int
    first: int


@dataclass(frozen=True, eq=False)
class Rows:
    """All input rows. Parquet keeps its Arrow table, anything with JSON lines its parsed objects.

    ``faults`` has one sentence for every row that could not be read.
    """

    source: str
    files: tuple[SourceFile, ...]
    names: tuple[str, ...]  # columns, in first-seen order
    faults: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    table: pa.Table | None = None
    records: Sequence[Record | None] = ()  # used where there is no table; None: see faults
    record_hashes: Sequence[str] = ()

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

    @cached_property
    def _hashes(self) -> Sequence[str]:
        return self.record_hashes if self.table is None else content_hashes(self.table)

    @cached_property
    def _firsts(self) -> list[int]:
        return [file.first for file in self.files]

    def identity(self, ordinal: int) -> tuple[str, int, str]:
        """(file, row in that file, hash of the row's content): names a row across runs."""
        file = self.files[bisect_right(self._firsts, ordinal) - 1]
        return file.name, ordinal - file.first, self._hashes[ordinal]


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one file, in the form that its format gives them."""

    rows: int
    faults: dict[int, str]
    table: pa.Table | None = None
    records: Sequence[Record | None] = ()
    hashes: Sequence[str] = ()


def read_rows(spec: str, *, limit: int | None = None) -> Rows:
    """The rows of every job file that ``spec`` names, in order of file name, at most ``limit``.

    ``spec`` is a Parquet or JSON-lines file, a directory, a glob or an fsspec URL of these. Raises
    ``ConfigError`` naming the file that is missing, of another format or cut short. A row that
    cannot be read stays in its place as a fault.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"limit is {limit}; it must be 0 or more")
    parts: list[_Part] = []
    files: list[SourceFile] = []
    faults: dict[int, str] = {}
    first = 0
    for location in find_files(spec):
        if limit is not None and first >= limit and files:
            break
        part = _read(location, None if limit is None else limit - first)
        files.append(SourceFile(location.path, location.name, location.format, part.rows, first))
        faults.update((first + row, sentence) for row, sentence in part.faults.items())
        parts.append(part)
        first += part.rows
    if all(part.table is not None for part in parts):
        return _table_rows(spec, files, [part.table for part in parts], faults)
    return _record_rows(spec, files, parts, faults)


def _read(location: Location, limit: int | None) -> _Part:
    with reading(location) as stream:
        if location.format == "jsonl":
            lines = read_lines(stream, location.name, limit=limit)
            return _Part(
                len(lines.records), lines.faults, records=lines.records, hashes=lines.hashes
            )
        table = read_table(stream, location.path, limit=limit)
    table, faults = without_bad_text(table, location.name)
    return _Part(table.num_rows, faults, table=table)


def _table_rows(
    spec: str, files: list[SourceFile], tables: list[pa.Table], faults: dict[int, str]
) -> Rows:
    whole = [table for table in tables if table.num_columns] or tables[:1]
    try:
        table = pa.concat_tables(whole, promote_options="permissive") if whole[1:] else whole[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(f"the files of {spec} disagree on a column's type: {error}") from error
    names = tuple(table.column_names)
    return Rows(spec, tuple(files), names, MappingProxyType(faults), table=table)


def _record_rows(
    spec: str, files: list[SourceFile], parts: list[_Part], faults: dict[int, str]
) -> Rows:
    records: list[Record | None] = []
    hashes: list[str] = []
    names: dict[str, None] = {}
    for part in parts:
        if part.table is None:
            records.extend(part.records)
            hashes.extend(part.hashes)
        else:
            names.update(dict.fromkeys(part.table.column_names))
            records.extend(row_batches(part.table, part.table.column_names))
            hashes.extend(content_hashes(part.table))
    for record in records:
        names.update(dict.fromkeys(record or ()))
    return Rows(
        spec,
        tuple(files),
        tuple(names),
        MappingProxyType(faults),
        records=records,
        record_hashes=hashes,
    )
