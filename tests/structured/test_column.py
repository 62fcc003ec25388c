"""The Arrow type of a form's values holds every value of that form, and the value comes back."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schemas import schemas, values_of

from batchpipe.structured.column import column_of, column_of_schema
from batchpipe.structured.constraint import constraint_of

TEXTS = pa.string()


def array_of(schema: object, values: list[Any]) -> pa.Array:
    return column_of_schema(schema).array(pa.chunked_array([[json.dumps(v) for v in values]]))


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, TEXTS),
        ({"enum": ["a", "b", None]}, TEXTS),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"enum": [1, "a"]}, TEXTS),
        ({"const": 4}, pa.int64()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, pa.bool_()),
        ({"type": "array", "items": {"type": "number"}}, pa.list_(pa.float64())),
        ({"allOf": [{"type": "integer"}]}, pa.int64()),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, pa.int64()),
        # JSON text:
        (True, TEXTS),
        ({}, TEXTS),
        ({"type": "object"}, TEXTS),
        ({"type": "array"}, TEXTS),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, TEXTS),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": True}, TEXTS),
    ],
)
def test_types_follow_the_schema(schema: object, kind: pa.DataType) -> None:
    assert column_of_schema(schema).type == kind


def test_a_type_within_itself_is_json_text_there() -> None:
    node = {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "next": {"$ref": "#"}},
    }
    inner = pa.struct([("value", pa.int64()), ("next", pa.string())])
    assert column_of_schema({"$ref": "#/$defs/n", "$defs": {"n": node}}).type == pa.struct(
        [("value", pa.int64()), ("next", inner)]
    ) or column_of_schema(node).type == pa.struct([("value", pa.int64()), ("next", inner)])
    value = {"value": 1, "next": {"value": 2, "next": {"value": 3, "next": None}}}
    [found] = array_of(node, [value]).to_pylist()
    assert found["next"]["value"] == 2
    assert json.loads(found["next"]["next"]) == value["next"]["next"]


def test_parts_without_a_type_are_json_text_in_their_place() -> None:
    schema = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "more": {"type": "object"}},
    }
    [found] = array_of(schema, [{"id": 3, "more": {"a": [1]}}]).to_pylist()
    assert found == {"id": 3, "more": '{"a": [1]}'}


def test_absent_and_null_fields_are_null() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}
    assert array_of(schema, [{"a": 1}, {"b": None}]).to_pylist() == [
        {"a": 1, "b": None},
        {"a": None, "b": None},
    ]


def test_what_no_column_can_hold_as_it_is_still_has_its_place() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    assert array_of(schema, [["\ud800", "\0", "😀"]]).to_pylist() == [["\\ud800", "\0", "😀"]]
    assert array_of({"type": "number"}, [2**60 + 1, 1]).to_pylist() == [float(2**60), 1.0]
    assert array_of({"type": "integer"}, [3.0]).to_pylist() == [3]


@given(st.data())
def test_every_value_of_a_schema_has_a_place_in_its_column(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    values = data.draw(st.lists(values_of(schema), max_size=4))
    array = array_of(schema, values)
    assert array.type == column_of_schema(schema).type
    for value, found in zip(values, array.to_pylist(), strict=True):
        assert same(value, found)


def same(value: Any, found: Any) -> bool:
    """The cell says what the value says; absent fields are null."""
    if isinstance(found, dict):
        return all(same(value.get(name), each) for name, each in found.items())
    if isinstance(found, list):
        return all(same(*pair) for pair in zip(value, found, strict=True))
    if isinstance(found, str) and found != value:
        return bool(json.loads(found) == value)
    return bool(found == value)


def test_the_column_of_a_job_follows_who_may_ask() -> None:
    choices = constraint_of("choices", ["b", "a"])
    schema = constraint_of("schema", "age int")
    regex = constraint_of("regex", "a+")
    column = column_of(choices, ["prompt"])
    assert column is not None
    found = column.array(pa.chunked_array([['"a"', None, '"b"']]))
    assert found.to_pylist() == ["a", None, "b"]
    assert found.dictionary.to_pylist() == ["b", "a"]
    assert column_of(None, ["prompt"]) is None
    assert column_of(regex, ["prompt", "grammar"]) is None
    struct = column_of(schema, ["prompt"])
    assert struct is not None
    assert struct.type == pa.struct([("age", pa.int64())])

    texts = column_of(choices, ["prompt", "choices"])
    assert texts is not None
    assert texts.array(pa.chunked_array([['"a"']])).to_pylist() == ["a"]
    mixed = [column_of(choices, ["schema"]), column_of(schema, ["choices"])]
    mixed.append(column_of(schema, [], ["schema"]))
    for each in mixed:
        assert each is not None
        assert each.array(pa.chunked_array([['"a"', '{"b": 1}']])).to_pylist() == [
            '"a"',
            '{"b": 1}',
        ]
