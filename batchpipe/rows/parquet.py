"""Parquet job files: the table as it is, and a sentence for each row whose text is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from batchpipe.errors import ConfigError

_READ_ROWS = 65_536


def read_table(stream: BinaryIO, path: str, *, limit: int | None) -> pa.Table:
    """The file's first ``limit`` rows with their exact types; a file of 0 bytes has none.

    Raises ``ConfigError`` naming ``path`` where the bytes are no Parquet file.
    """
    if stream.seek(0, 2) == 0:
        return pa.table({})
    stream.seek(0)
    size = _READ_ROWS if limit is None else max(1, min(limit, _READ_ROWS))
    batches: list[pa.RecordBatch] = []
    try:
        file = pq.ParquetFile(stream)
        wanted = file.metadata.num_rows if limit is None else min(limit, file.metadata.num_rows)
        read = 0
        for batch in _batches(file, size) if wanted else ():
            batches.append(batch.slice(0, wanted - read))
            read += batches[-1].num_rows
            if read >= wanted:
                break
        table = pa.Table.from_batches(batches, schema=file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is not a readable Parquet file: {error}") from error
    _refuse_twins(table.column_names, path)
    return table


def _batches(file: pq.ParquetFile, size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a group at a time: a batch over two groups takes lists three times as long."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=size, row_groups=[group])


def _refuse_twins(names: list[str], path: str) -> None:
    twin = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twin is not None:
        raise ConfigError(f"{path} has two columns named {twin!r}: rename one of them")


def without_bad_text(table: pa.Table, name: str) -> tuple[pa.Table, dict[int, str]]:
    """The table with null for every cell that is not UTF-8, and a sentence for each such row.

    pyarrow does not look at the bytes of a text when it reads; Python fails later, in the middle
    of a run.
    """
    faults: dict[int, str] = {}
    for index, field in enumerate(table.schema):
        if not _has_text(field.type):
            continue
        chunks: list[pa.Array] = []
        first = 0
        for chunk in table.column(index).chunks:
            bad = _bad_cells(chunk)
            for row, byte in bad.items():
                sentence = f"{name} row {first + row}: column {field.name!r} is not UTF-8"
                faults.setdefault(first + row, f"{sentence} (byte {byte + 1})")
            chunks.append(_nulled(chunk, list(bad)) if bad else chunk)
            first += len(chunk)
        if faults:
            table = table.set_column(index, field, pa.chunked_array(chunks, field.type))
    return table, faults


def _has_text(kind: pa.DataType) -> bool:
    if kinds.is_dictionary(kind):
        return _has_text(kind.value_type)
    if kinds.is_nested(kind):
        return any(_has_text(kind.field(index).type) for index in range(kind.num_fields))
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _bad_cells(chunk: pa.Array) -> dict[int, int]:
    """Row in the chunk -> first byte that is not UTF-8."""
    try:
        chunk.validate(full=True)
    except pa.ArrowInvalid:
        bad: dict[int, int] = {}
        for row, cell in enumerate(chunk):
            try:
                # A date that Python cannot hold is no fault of the text.
                with suppress(OverflowError):
                    cell.as_py()
            except UnicodeDecodeError as error:
                bad[row] = error.start
            except ValueError:
                continue
        return bad
    return {}


def _nulled(chunk: pa.Array, rows: list[int]) -> pa.Array:
    """The chunk with null in these rows, by pieces: this keeps any type, nested ones too."""
    pieces: list[pa.Array] = []
    start = 0
    for row in rows:
        pieces += [chunk.slice(start, row - start), pa.nulls(1, chunk.type)]
        start = row + 1
    return pa.concat_arrays([*pieces, chunk.slice(start)])
