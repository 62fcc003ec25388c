"""The typed column beside an answer's text: which Arrow type a job's values have, and the values.

A part of a schema that no one type holds (an object without fixed fields, texts or numbers in one
place, a type within itself) is JSON text in its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from batchpipe.planner.request import Constraint
from batchpipe.rows.json_text import to_json
from batchpipe.structured.constraint import KINDS, labels_of


@dataclass(frozen=True, slots=True)
class Column:
    """An Arrow type, and how a JSON value becomes one of its values."""

    type: pa.DataType
    convert: Callable[[Any], Any]  # of a value that is not null
    categories: tuple[str, ...] = ()  # of a categorical column, whose values are their numbers

    def of(self, value: Any) -> Any:
        """The JSON value as one of the column's, null as null."""
        return None if value is None else self.convert(value)

    def array(self, texts: pa.ChunkedArray) -> pa.Array:
        """The column whose values the JSON texts are."""
        values = [None if text is None else self.of(json.loads(text)) for text in texts.to_pylist()]
        if self.categories:
            numbers = pa.array(values, self.type.index_type)
            return pa.DictionaryArray.from_arrays(numbers, pa.array(self.categories))
        return pa.array(values, self.type)


def column_of(
    default: Constraint | None, names: Iterable[str], overridden: Iterable[str] = ()
) -> Column | None:
    """The column ``parsed`` of a job; None where no row has a value besides its text.

    Where rows may ask for forms of their own there is one type for all: text for choices, and JSON
    text where schemas are among them.

    Args:
        default: what the run asks of rows that say nothing
        names: columns of the input
        overridden: parameters that the run's repairs changed
    """
    kinds = KINDS.keys() & {*names, *overridden}
    if not kinds:
        return None if default is None else _column_of_all(default)
    if default is not None:
        kinds.add(default.kind)
    if "schema" in kinds:
        return _JSON
    return _TEXT if "choices" in kinds else None


def column_of_schema(schema: object) -> Column:
    """The Arrow type of a JSON Schema's values."""
    return _Types(schema).of(schema)


def _column_of_all(constraint: Constraint) -> Column | None:
    if constraint.kind == "choices":
        labels = labels_of(constraint)
        return Column(pa.dictionary(pa.int32(), pa.string()), labels.index, tuple(labels))
    if constraint.kind == "schema":
        return column_of_schema(json.loads(constraint.text))
    return None


def _storable(text: str) -> str:
    """Half a surrogate pair, which JSON can hold, is written escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


_JSON = Column(pa.string(), to_json)
_TEXT = Column(pa.string(), _storable)
_PLAIN = {
    "string": _TEXT,
    "integer": Column(pa.int64(), int),
    "number": Column(pa.float64(), float),
    "boolean": Column(pa.bool_(), bool),
}
_KIND_OF: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")
_NULL = ({"type": "null"}, {"const": None}, {"enum": [None]})


class _Types:
    """The types of the parts of one schema, which may refer to one another."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._within: list[str] = []  # references that are being followed

    def of(self, schema: object) -> Column:
        """The type of this part; JSON text where no one type holds it."""
        if not isinstance(schema, Mapping):
            return _JSON
        if "$ref" in schema:
            return self._referred(schema["$ref"])
        if "enum" in schema or "const" in schema:
            return _of_values(schema.get("enum", [schema.get("const")]))
        alternatives = [word for word in _ALTERNATIVES if word in schema]
        kind = schema.get("type")
        if alternatives:
            several = len(alternatives) > 1 or kind is not None or "properties" in schema
            return _JSON if several else self._one_of(schema[alternatives[0]], alternatives[0])
        if isinstance(kind, list):
            return self._one_of([{**schema, "type": each} for each in kind], "anyOf")
        if kind == "array":
            return self._list(schema)
        if kind == "object":
            return self._struct(schema)
        return _PLAIN.get(str(kind), _JSON)

    def _referred(self, reference: str) -> Column:
        if reference in self._within:
            return _JSON
        found = self._root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, Mapping) else None
        self._within.append(reference)
        column = self.of(found)
        self._within.pop()
        return column

    def _one_of(self, schemas: Sequence[object], word: str) -> Column:
        """The type of what may also be null; JSON text where there are several."""
        some = [schema for schema in schemas if schema not in _NULL]
        if word == "allOf" and len(schemas) > 1:
            return _JSON
        columns = [self.of(schema) for schema in some]
        same = bool(columns) and all(column is columns[0] for column in columns)
        return columns[0] if same else _JSON

    def _list(self, schema: Mapping[str, Any]) -> Column:
        if "prefixItems" in schema or not isinstance(schema.get("items"), Mapping):
            return _JSON
        item = self.of(schema["items"])
        return Column(pa.list_(item.type), lambda values: [item.of(value) for value in values])

    def _struct(self, schema: Mapping[str, Any]) -> Column:
        properties = schema.get("properties")
        if not properties or schema.get("additionalProperties") or "patternProperties" in schema:
            return _JSON
        fields = {name: self.of(each) for name, each in properties.items()}

        def convert(value: Mapping[str, Any]) -> dict[str, Any]:
            return {name: field.of(value.get(name)) for name, field in fields.items()}

        return Column(pa.struct([(name, field.type) for name, field in fields.items()]), convert)


def _of_values(values: Sequence[object]) -> Column:
    """The type of a few fixed values."""
    kinds = {_KIND_OF.get(type(value)) for value in values if value is not None}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    return _PLAIN.get(str(kinds.pop()), _JSON) if len(kinds) == 1 else _JSON
