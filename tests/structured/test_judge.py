"""A text is what was asked for, or the sentence says what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from schemas import schemas, values_of

from batchpipe.planner.request import Constraint
from batchpipe.rows.parameters import constraint_in
from batchpipe.structured.bounds import LARGEST, with_bounded_integers
from batchpipe.structured.grammars import matches
from batchpipe.structured.judge import CUT, Judged, judge, matches_by_re


def judged(text: str, *, cut: bool = False, **asked: Any) -> Judged:
    found = constraint_in(asked)
    assert found is not None
    verdicts = {judge(found, text, how, cut=cut) for how in (matches, matches_by_re)}
    assert len(verdicts) == 1, "both ways to know patterns agree"
    return verdicts.pop()


@given(st.data())
def test_what_a_schema_allows_is_its_own_value(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    value = data.draw(values_of(schema))
    found = judged(json.dumps(value), schema=schema)
    assert found.fault is None
    assert json.loads(str(found.parsed)) == value


def test_what_a_grammar_cannot_say_is_checked_all_the_same() -> None:
    distinct = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert judged("[1, 2]", schema=distinct) == Judged("[1, 2]")
    assert "non-unique" in str(judged("[1, 1]", schema=distinct).fault)
    nested = {"type": "object", "properties": {"a": {"type": "array", "items": distinct}}}
    fault = judged('{"a": [[1], [2, 2]]}', schema=nested).fault
    assert str(fault).startswith('the answer breaks the schema at ["a"][1]: ')


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "the answer is no JSON (Expecting value"),
        ("{", "the answer is no JSON"),
        ("NaN", "the answer is no JSON (NaN is no JSON)"),
        ("1e999", "a number of more than 64 bits"),
        ("9223372036854775808", "a number of more than 64 bits"),
        ("9" * 5000, "the answer is no JSON"),
        ("[" * 5000, "the answer is no JSON"),
        ('"a"', "the answer breaks the schema: 'a' is not of type 'number'"),
    ],
)
def test_what_is_no_value_is_a_sentence(text: str, wrong: str) -> None:
    assert wrong in str(judged(text, schema={"type": "number"}).fault)


def test_an_answer_that_was_cut_says_so_and_a_whole_one_may_be_as_long() -> None:
    schema = {"type": "array"}
    assert judged("[1", cut=True, schema=schema).fault == CUT
    assert judged("[1]", cut=True, schema=schema).fault is None
    assert judged("12", cut=True, regex="[0-9]+").fault is None
    assert judged("1", cut=True, regex="[0-9]{2}").fault == CUT
    assert judged("1", regex="[0-9]{2}").fault == "the answer does not match the regex"


def test_choices_are_their_texts_alone() -> None:
    assert judged("ab", choices=["a", "ab"]) == Judged('"ab"')
    assert "'abc' is none of the choices" in str(judged("abc", choices=["a", "ab"]).fault)


def test_a_grammar_is_known_to_what_compiled_it_alone() -> None:
    found = Constraint("grammar", 'root ::= "yes" | "no"')
    assert judge(found, "yes", matches, cut=True).fault is None
    assert judge(found, "maybe", matches, cut=False).fault is not None
    assert judge(found, "maybe", matches_by_re, cut=False).fault is None
    assert judge(found, "yes", matches_by_re, cut=True).fault == CUT


@pytest.mark.parametrize(("text", "right"), [("12", True), ("a\nb", True), ("١", False)])
def test_classes_of_characters_mean_the_same_to_both(text: str, right: bool) -> None:
    assert (judged(text, regex=r"[a-z].[a-z]|\d+").fault is None) == right


def test_whole_numbers_have_a_bound_unless_they_say_so() -> None:
    given_schema = {
        "type": "object",
        "properties": {
            "type": {"type": "integer"},
            "age": {"type": "integer", "minimum": 0},
            "huge": {"type": "integer", "maximum": 10**30},
            "list": {"type": "array", "items": {"anyOf": [{"type": "integer"}]}},
        },
        "$defs": {"id": {"type": "integer", "exclusiveMaximum": 5}},
    }
    before = json.dumps(given_schema)
    found = with_bounded_integers(given_schema)
    assert json.dumps(given_schema) == before
    fields = found["properties"]
    both = {"minimum": -LARGEST, "maximum": LARGEST}
    assert fields["type"] == {"type": "integer", **both}
    assert fields["age"] == {"type": "integer", "minimum": 0, "maximum": LARGEST}
    assert fields["huge"] == {"type": "integer", "maximum": 10**30}
    assert fields["list"]["items"]["anyOf"] == [{"type": "integer", **both}]
    assert found["$defs"]["id"] == {
        "type": "integer",
        "exclusiveMaximum": 5,
        "minimum": -LARGEST,
    }
