"""Filter, explode and reduce on values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.workflow.operators.rows import Unfit, elements, goes_on, group_key

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@pytest.mark.parametrize("value", [True, 1, [0], {"a": 0}])
def test_a_row_goes_on_where_the_condition_is_true(value: object) -> None:
    assert goes_on(value)


@pytest.mark.parametrize("value", [False, 0, 0.0, [], {}, None])
def test_a_row_ends_where_the_condition_is_not(value: object) -> None:
    assert not goes_on(value)


@pytest.mark.parametrize("value", ["false", "", "yes"])
def test_a_text_is_no_condition(value: str) -> None:
    with pytest.raises(Unfit, match="compare it"):
        goes_on(value)


@given(st.lists(VALUES))
def test_an_explode_gives_each_element_its_place(value: list[Any]) -> None:
    found = elements(value)
    assert [element["item"] for element in found] == value
    assert [element["index"] for element in found] == list(range(len(value)))


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("abc", "text: 'abc'"),
        (None, "null: None"),
        (3, "a number: 3"),
        ({"a": 1}, "an object: {'a': 1}"),
        (True, "true or false: True"),
    ],
)
def test_what_is_no_list_is_not_taken_apart(value: object, what: str) -> None:
    with pytest.raises(Unfit) as told:
        elements(value)
    assert str(told.value) == f"explode needs a list, and this is {what}"


@given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=3))
def test_groups_are_those_of_equal_values(left: list[Any], right: list[Any]) -> None:
    assert (group_key(left) == group_key(right)) == (typed(left) == typed(right))


def typed(value: Any) -> Any:
    """The value such that Python's == tells true from 1."""
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    if isinstance(value, dict):
        return {name: typed(inner) for name, inner in value.items()}
    return ("truth", value) if isinstance(value, bool) else value


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (1, "1", False),
        (None, "null", False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ],
)
def test_what_counts_as_equal(left: object, right: object, same: bool) -> None:
    assert (group_key([left]) == group_key([right])) is same
