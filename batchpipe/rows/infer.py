"""Parsed JSON values as Arrow columns, one type a column."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.types as kinds

from batchpipe.rows.json_text import to_json

# A dict with more distinct keys is a map from ids to values: as a struct it would get a column for
# every id.
_MOST_KEYS = 256


def infer_column(values: Sequence[object]) -> pa.ChunkedArray:
    """The values as one Arrow column; JSON text a cell where no one type holds them all."""
    if _has_many_keys(values):
        return _json_column(values)
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return _json_column(values)
    column = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    if kinds.is_null(column.type):
        return column.cast(pa.string())
    return _json_column(values) if _has_hollow_part(column.type) else column


def _json_column(values: Sequence[object]) -> pa.ChunkedArray:
    texts = [None if value is None else to_json(value) for value in values]
    array = pa.array(texts, pa.large_string())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _has_many_keys(values: Sequence[object]) -> bool:
    """True where the dicts in these values have more than 256 distinct keys together."""
    keys: set[str] = set()
    todo = [value for value in values if isinstance(value, (dict, list))]
    while todo and len(keys) <= _MOST_KEYS:
        value = todo.pop()
        if isinstance(value, dict):
            keys.update(value)
        inner = value.values() if isinstance(value, dict) else value
        todo.extend(item for item in inner if isinstance(item, (dict, list)))
    return len(keys) > _MOST_KEYS


def _has_hollow_part(kind: pa.DataType) -> bool:
    """True where Parquet has no form for the type: a struct without fields, at any depth."""
    if kinds.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_hollow_part(kind.field(index).type) for index in range(kind.num_fields))
