"""The files of results: Parquet, zstd, one row a result, sorted by the row's ordinal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import Part, digest_of
from batchpipe.rows.logprob_columns import LOGPROB_COLUMNS, column_of
from batchpipe.rows.results import COLUMNS, Result

SCHEMA = pa.schema([("ordinal", pa.int64()), *COLUMNS.items()])
ROW_GROUP_ROWS = 10_000

assert {each.name for each in fields(Result)} == set(SCHEMA.names)


class DamagedFile(Exception):
    """A file is not what the manifest names; the message says what is wrong with it."""

    def __init__(self, name: str, wrong: str) -> None:
        super().__init__(wrong)
        self.name = name


def table_of(results: Sequence[Result]) -> pa.Table:
    """The results as columns, sorted by row."""
    ordered = sorted(results, key=attrgetter("ordinal"))
    arrays = [_column(ordered, each) for each in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _column(results: Sequence[Result], column: pa.Field) -> pa.Array:
    values: list[Any] = list(map(attrgetter(column.name), results))
    if column.name in LOGPROB_COLUMNS:
        return column_of(values, column.type)
    try:
        return pa.array(values, column.type)
    except UnicodeEncodeError:  # half a surrogate pair has no place in a file
        return pa.array([_writable(value) for value in values], column.type)


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return [_writable(each) for each in value] if isinstance(value, tuple) else value


def packed_part(table: pa.Table, number: int, *, repair: int, level: int) -> tuple[Part, bytes]:
    """The part with this number, and its file's content."""
    content = packed_table(table)
    part = Part(
        name=Part.name_of(number),
        rows=table.num_rows,
        failed=table.num_rows - (pc.sum(pc.equal(table["status"], "success")).as_py() or 0),
        several=table["outputs"].null_count < table.num_rows,
        digest=digest_of(content),
        size_bytes=len(content),
        memory_bytes=table.nbytes,
        repair=repair,
        level=level,
    )
    return part, content


def packed_table(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    return bytes(stream.getvalue())


def fetched(folder: Folder, name: str, digest: str) -> bytes:
    """The file's content, which is what was written.

    Raises:
        DamagedFile: it is not, or not there
        OSError: it cannot be read now
    """
    try:
        content = folder.get(name)
    except FileNotFoundError as error:
        raise DamagedFile(name, "is missing") from error
    if digest_of(content) != digest:
        raise DamagedFile(name, "is damaged: its checksum is not the manifest's")
    return content


def batches(content: bytes, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a Parquet file, some at a time."""
    file = pq.ParquetFile(pa.BufferReader(content))
    chosen = None if columns is None else list(columns)
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=chosen, use_threads=False)
