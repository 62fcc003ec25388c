"""Parsed JSON values as Arrow columns, one type a column, found batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.types as kinds

from batchpipe.rows.batch import Rows
from batchpipe.rows.json_text import to_json

# A dict with more distinct keys is a map from ids to values: as a struct it would get a column for
# every id.
_MOST_KEYS = 256

_UNFIT = (pa.ArrowException, OverflowError, UnicodeEncodeError)


class Batched(Protocol):
    """Rows that are read a batch at a time, and again whenever they are needed: a `Source`, say."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns."""

    def batches(self) -> Iterator[Rows]:
        """All rows in order."""


def column_types(source: Batched) -> dict[str, pa.DataType | None]:
    """The one type that holds all values of each column; None: no type does, so JSON text.

    The answer is the same however the rows are cut into batches. The rows are read once, and again
    where a type is wider than some batch alone would need: not every whole number is a double.
    """
    columns = {name: _Column() for name in source.names}
    for rows in source.batches():
        for name, column in columns.items():
            if column.type is not None:
                column.see(rows.values(name))
    doubtful = [name for name, c in columns.items() if c.type is not None and c.widened]
    for rows in source.batches() if doubtful else ():
        for name in doubtful:
            if columns[name].type is not None and not _fits(rows.values(name), columns[name].type):
                columns[name].type = None
    return {name: column.stored_type() for name, column in columns.items()}


def typed_column(values: Sequence[object], kind: pa.DataType | None) -> pa.ChunkedArray:
    """The values as one Arrow column of this type, each as JSON text where there is none."""
    if kind is None:
        kind = pa.large_string()
        values = [None if value is None else to_json(value) for value in values]
    array = pa.array(values, kind)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


class _Column:
    """The type of a column as far as its values have been seen."""

    def __init__(self) -> None:
        self.type: pa.DataType | None = pa.null()
        self.widened = False  # some values were seen as a narrower type
        self._keys: set[str] = set()

    def see(self, values: Sequence[object]) -> None:
        """The type holds these values too, or there is none."""
        before, found = self.type, None
        _add_keys(self._keys, values)
        if len(self._keys) <= _MOST_KEYS:
            found = _type_of(values)
        self.type = None if found is None else _unified(before, found)
        if self.type is not None:
            self.widened = self.widened or any(_widens(kind, self.type) for kind in (before, found))

    def stored_type(self) -> pa.DataType | None:
        """The type in a Parquet file, which has no struct without fields."""
        if self.type is None or _has_hollow_part(self.type):
            return None
        return pa.string() if kinds.is_null(self.type) else self.type


def _add_keys(keys: set[str], values: Iterable[object]) -> None:
    """``keys`` has all of the dicts in these values, or more than 256 of them."""
    todo = [value for value in values if isinstance(value, (dict, list))]
    while todo and len(keys) <= _MOST_KEYS:
        value = todo.pop()
        if isinstance(value, dict):
            keys.update(value)
        inner = value.values() if isinstance(value, dict) else value
        todo.extend(item for item in inner if isinstance(item, (dict, list)))


def _type_of(values: Sequence[object]) -> pa.DataType | None:
    try:
        kind = pa.array(values).type
    except _UNFIT:
        return None
    return None if _has_flag_as_number(values, kind) else kind


def _has_flag_as_number(values: Sequence[Any], kind: pa.DataType) -> bool:
    """True where Arrow would write true as 1.0: it does behind a number, and refuses it before."""
    if kinds.is_floating(kind):
        return any(isinstance(value, bool) for value in values)
    if kinds.is_list(kind):
        return _has_flag_as_number(
            [item for value in values for item in value or ()], kind.value_type
        )
    if kinds.is_struct(kind):
        some = [value for value in values if value is not None]
        return any(_has_flag_as_number([v.get(f.name) for v in some], f.type) for f in kind)
    return False


def _fits(values: Sequence[object], kind: pa.DataType) -> bool:
    try:
        pa.array(values, kind)
    except _UNFIT:
        return False
    return True


def _unified(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds both; lists and structs by their parts."""
    schemas = [pa.schema([("", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _widens(kind: pa.DataType, wider: pa.DataType) -> bool:
    """True where a part of ``kind`` that has values has another type in ``wider``."""
    if kinds.is_null(kind):
        return False
    if kinds.is_list(kind):
        return _widens(kind.value_type, wider.value_type)
    if kinds.is_struct(kind):
        return any(_widens(field.type, wider.field(field.name).type) for field in kind)
    return bool(kind != wider)


def _has_hollow_part(kind: pa.DataType) -> bool:
    """True where Parquet has no form for the type: a struct without fields, at any depth."""
    if kinds.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_hollow_part(kind.field(index).type) for index in range(kind.num_fields))
