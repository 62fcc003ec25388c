"""What a user may ask of an answer's form, and the sentence where it makes no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from batchpipe.errors import ConfigError
from batchpipe.rows.parameters import constraint_in
from batchpipe.structured.constraint import (
    BadConstraint,
    constraint_of,
    labels_of,
    most_tokens,
)
from batchpipe.structured.options import file_or_text
from batchpipe.structured.shorthand import BadShorthand, schema_of


class Ticket(BaseModel):
    """A pydantic model."""

    topic: str
    urgent: bool = False


def test_nothing_asked_is_no_constraint() -> None:
    assert constraint_in({}) is None
    assert constraint_in({"temperature": 0.5}) is None


def test_choices_come_as_a_list_as_json_or_with_commas() -> None:
    expected = ["a", "b, c", "é"]
    for given in (expected, tuple(expected), '["a", "b, c", "é"]'):
        found = constraint_of("choices", given)
        assert labels_of(found) == expected
        assert most_tokens(found) == 5
    assert labels_of(constraint_of("choices", "pos, neg ,neutral")) == ["pos", "neg", "neutral"]


def test_a_schema_comes_as_a_dict_as_text_or_as_a_pydantic_model() -> None:
    schema = Ticket.model_json_schema()
    found = constraint_of("schema", Ticket)
    assert json.loads(found.text) == schema
    assert constraint_of("schema", schema) == constraint_of("schema", json.dumps(schema)) == found
    unsorted = constraint_of("schema", {"properties": {"z": {}, "a": {}}})
    assert list(json.loads(unsorted.text)["properties"]) == ["z", "a"]


def test_fields_in_a_line_are_a_schema() -> None:
    found = schema_of(
        "name, age int, tags list[str], mood enum(good|bad)?, price float: in $, VAT? bool"
    )
    assert found == {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "mood": {"anyOf": [{"enum": ["good", "bad"]}, {"type": "null"}]},
            "price": {"type": "number", "description": "in $"},
            "VAT": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        },
        "required": ["name", "age", "tags", "mood", "price", "VAT"],
        "additionalProperties": False,
    }


def test_nested_types_and_descriptions_with_brackets_are_read() -> None:
    found = schema_of("grid list[list[int]], note?: what (or who, or where) it is, last")
    assert found["properties"]["grid"]["items"]["items"] == {"type": "integer"}
    assert found["properties"]["note"]["description"] == "what (or who, or where) it is"
    assert list(found["properties"]) == ["grid", "note", "last"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name, name int", "the field name twice"),
        ("name, age integer", "'integer' is no type, as are str, int, float, bool"),
        ("CREATE TABLE orders (id INT)", "'TABLE orders (id INT)' is no type"),
        ("name,", "'' does not begin with a field's name"),
        ("1st", "'1st' does not begin"),
        ("mood enum(a|a)", "an empty value or one twice"),
        ("tags list[]", "'list[]' is no type"),
    ],
)
def test_what_is_no_field_is_named(text: str, wrong: str) -> None:
    with pytest.raises(BadShorthand) as refused:
        schema_of(text)
    assert wrong in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("choices", [], "choices is []; there is no choice: give two texts or more"),
        ("choices", "", "choices is ''; there is no choice"),
        ("choices", ["only"], "choices is ['only']; there is no choice"),
        ("choices", ["a", "b", "a"], "choices has 'a' twice; give each text once"),
        ("choices", ["a", ""], "none of its texts may be empty"),
        ("choices", [1, 2], "choices is [1, 2]; it must be a list of texts"),
        ("choices", 3, "choices is 3; it must be a list of texts"),
        ("choices", '["a", "b"', 'choices is \'["a", "b"\'; it must be a list of texts'),
        ("choices", ["a", "\ud800"], "half a surrogate pair"),
        ("schema", "{", "which is no JSON"),
        ("schema", [1], "schema is [1]; it must be a JSON Schema"),
        ("schema", "[1]", "schema is [1]; it must be a JSON Schema"),
        ("schema", {"const": float("nan")}, "schema is no JSON"),
        ("schema", "SELECT a, b", "neither JSON nor a list of fields: 'a' is no type"),
        ("regex", "", "regex is ''; it must be a text that is not empty"),
        ("grammar", 7, "grammar is 7; it must be a text"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(name: str, value: object, wrong: str) -> None:
    with pytest.raises(BadConstraint) as refused:
        constraint_of(name, value)
    assert wrong in str(refused.value)


def test_two_forms_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="choices and regex exclude each other"):
        constraint_in({"choices": ["a", "b"], "regex": "a|b"})


def test_an_option_may_be_a_file_or_its_content(tmp_path: Any) -> None:
    path = tmp_path / "fields.txt"
    path.write_text("name, age int")
    assert file_or_text("schema", str(path)) == "name, age int"
    assert file_or_text("schema", f"@{path}") == "name, age int"
    for text in ("name, age int", '{"type": "object"}', "x" * 5000, "a\0b"):
        assert file_or_text("schema", text) == text
