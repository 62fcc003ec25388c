"""Parquet job files: the table as it is, and a sentence for each row whose text is not UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from batchpipe.errors import ConfigError
from batchpipe.rows.batch import Piece

_BUFFER_BYTES = 1 << 20
_MEASURED_ROWS = 64


def open_table(stream: BinaryIO, path: str) -> pq.ParquetFile | None:
    """The file, its footer read and no row; None for a file of 0 bytes, which has no rows.

    Raises ``ConfigError`` naming ``path`` where the bytes are no Parquet file.
    """
    if stream.seek(0, 2) == 0:
        return None
    stream.seek(0)
    with _naming(path):
        # Without a buffer a reader takes each column of a whole row group into memory.
        file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        _refuse_twins(file.schema_arrow.names, path)
    return file


def table_pieces(
    stream: BinaryIO, path: str, name: str, *, limit: int | None, most_rows: int, most_bytes: int
) -> Iterator[Piece]:
    """All rows in order with their exact types, null for a text that is not UTF-8.

    A piece has at most so many rows of one row group, and about so many bytes. Raises
    ``ConfigError`` naming ``path`` where the bytes are no Parquet file.
    """
    file = open_table(stream, path)
    if file is None:
        return
    left = file.metadata.num_rows if limit is None else min(limit, file.metadata.num_rows)
    first = 0
    with _naming(path):
        for group in range(file.num_row_groups):
            if left <= 0:
                return
            size = _rows_at_once(file, group, min(left, most_rows), most_bytes)
            for batch in file.iter_batches(batch_size=size, row_groups=[group]):
                table = pa.Table.from_batches([batch.slice(0, left)])
                if not len(table):
                    return
                size_bytes = table.nbytes
                table, faults = without_bad_text(table, name, first)
                yield Piece(size_bytes, faults, table=table)
                first, left = first + len(table), left - len(table)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is not a readable Parquet file: {error}") from error


def _rows_at_once(file: pq.ParquetFile, group: int, most_rows: int, most_bytes: int) -> int:
    """How many rows of the group have about ``most_bytes`` in memory, 1 to ``most_rows``.

    The footer tells the bytes on disk. A text that many rows repeat lies there once and in memory
    once a row, so the first rows are measured too.
    """
    footer = file.metadata.row_group(group)
    if footer.num_rows == 0:
        return 1
    row_bytes = footer.total_byte_size / footer.num_rows
    if footer.num_rows > _MEASURED_ROWS:
        batch = next(file.iter_batches(batch_size=_MEASURED_ROWS, row_groups=[group]))
        row_bytes = max(row_bytes, sum(map(_cell_bytes, batch.columns)) / len(batch))
    return max(1, min(most_rows, int(most_bytes // max(1, row_bytes))))


def _cell_bytes(array: pa.Array) -> int:
    """Bytes that grow with the rows: a dictionary does not."""
    return int(array.indices.nbytes if kinds.is_dictionary(array.type) else array.nbytes)


def _refuse_twins(names: list[str], path: str) -> None:
    twin = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twin is not None:
        raise ConfigError(f"{path} has two columns named {twin!r}: rename one of them")


def without_bad_text(table: pa.Table, name: str, first_row: int) -> tuple[pa.Table, dict[int, str]]:
    """The table with null for every cell that is not UTF-8, and a sentence for each such row.

    The table begins at row ``first_row`` of the file ``name``. pyarrow does not look at the bytes
    of a text when it reads; Python fails later, in the middle of a run.
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
                where = f"{name} row {first_row + first + row}: column {field.name!r}"
                faults.setdefault(first + row, f"{where} is not UTF-8 (byte {byte + 1})")
            chunks.append(_emptied(chunk, list(bad), field) if bad else chunk)
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


def _emptied(chunk: pa.Array, rows: list[int], field: pa.Field) -> pa.Array:
    """The chunk with null in these rows, by pieces: this keeps any type, nested ones too."""
    empty = pa.array([_empty(field)], chunk.type)
    pieces: list[pa.Array] = []
    start = 0
    for row in rows:
        pieces += [chunk.slice(start, row - start), empty]
        start = row + 1
    return pa.concat_arrays([*pieces, chunk.slice(start)])


def _empty(field: pa.Field) -> object:
    """Null where the field may be: a required text is empty, and so is a required list."""
    if field.nullable:
        return None
    if kinds.is_struct(field.type):
        return {child.name: _empty(child) for child in field.type}
    return [] if kinds.is_nested(field.type) else ""
