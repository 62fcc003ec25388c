"""Arrow columns as Python values, as flat numbers and as hashes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as kinds

IntArray = npt.NDArray[np.integer[Any]]

CONVERTED_ROWS = 10_000  # at once: Python objects take several times the bytes of Arrow


def to_python(column: pa.ChunkedArray) -> list[object]:
    """The column's cells as Python objects.

    ``datetime`` has no nanoseconds and ends at the year 9999: what it cannot hold comes as text.
    """
    try:
        exact = _retimed(column.type, as_text=False)
        return list((column if exact == column.type else column.cast(exact)).to_pylist())
    except (pa.ArrowInvalid, OverflowError, ValueError):
        return list(column.cast(_retimed(column.type, as_text=True)).to_pylist())


def _retimed(kind: pa.DataType, *, as_text: bool) -> pa.DataType:
    """``kind`` with its points in time in microseconds, or as text."""

    def inner(child: pa.DataType) -> pa.DataType:
        return _retimed(child, as_text=as_text)

    if kinds.is_temporal(kind) and as_text:
        return pa.string()
    if kinds.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", tz=kind.tz)
    if kinds.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if kinds.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if kinds.is_list(kind):
        return pa.list_(kind.value_field.with_type(inner(kind.value_type)))
    if kinds.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(inner(kind.value_type)))
    if kinds.is_struct(kind):
        return pa.struct([child.with_type(inner(child.type)) for child in kind])
    return kind


@dataclass(frozen=True, slots=True, eq=False)
class NumberLists:
    """The rows of a list column: row ``i`` is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: IntArray
    offsets: npt.NDArray[np.int64]  # [rows + 1]
    nulls: npt.NDArray[np.int64]  # rows that are null, whatever lies between their offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self) -> list[IntArray | None]:
        """Each row as a view of the flat array, None where it is null."""
        bounds = pairwise(self.offsets.tolist())
        views: list[IntArray | None] = [self.flat[start:end] for start, end in bounds]
        for row in self.nulls.tolist():
            views[row] = None
        return views


def number_lists(array: pa.Array) -> NumberLists | None:
    """A list column without a copy; None for no list of integers, or with a null in some list."""
    if kinds.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not (kinds.is_list(array.type) or kinds.is_large_list(array.type)):
        return None
    if not kinds.is_integer(array.type.value_type):
        return None
    offsets = array.offsets.to_numpy().astype(np.int64) if len(array) else np.zeros(1, np.int64)
    used = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    if used.null_count:
        return None
    flat = used.to_numpy(zero_copy_only=False)
    nulls = np.zeros(0, dtype=np.int64)
    if array.null_count:
        nulls = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
    return NumberLists(flat, offsets - offsets[0], nulls)


def content_hashes(table: pa.Table) -> list[str]:
    """One blake2b of 16 hex characters a row, the same wherever the row lies in its file.

    A null cell hashes as an absent one, so that a column that only other files have does not
    change a row.
    """
    names = sorted(table.column_names)
    keys = [name.encode("utf-8", "surrogatepass") for name in names]
    hashes: list[str] = []
    for batch in table.select(names).to_batches(max_chunksize=CONVERTED_ROWS):
        columns = [_cells(batch.column(index)) for index in range(len(names))]
        hashes.extend(_row_hash(keys, row) for row in zip(*columns, strict=True))
    return hashes


def _row_hash(keys: list[bytes], cells: tuple[bytes | None, ...]) -> str:
    digest = blake2b(digest_size=8)
    for key, cell in zip(keys, cells, strict=True):
        if cell is not None:
            digest.update(b"%d %b %d " % (len(key), key, len(cell)))
            digest.update(cell)
    return digest.hexdigest()


def _cells(array: pa.Array) -> list[bytes | None]:
    """The column's cells as bytes; texts and lists of numbers without a Python object per part."""
    kind = array.type
    if kinds.is_string(kind):
        return list(array.cast(pa.binary()).to_pylist())
    if kinds.is_large_string(kind):
        return list(array.cast(pa.large_binary()).to_pylist())
    numbers = number_lists(array)
    if numbers is not None:
        return [None if row is None else row.tobytes() for row in numbers.rows()]
    cells = to_python(pa.chunked_array([array]))
    return [None if cell is None else repr(cell).encode("utf-8", "replace") for cell in cells]


def row_batches(table: pa.Table, names: list[str]) -> Iterator[dict[str, object]]:
    """Every row as a dict of the named columns, converted 10,000 rows at a time."""
    for start in range(0, table.num_rows, CONVERTED_ROWS):
        part = table.slice(start, CONVERTED_ROWS)
        if not names:
            yield from ({} for _ in range(part.num_rows))
        columns = [to_python(part.column(name)) for name in names]
        yield from (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
