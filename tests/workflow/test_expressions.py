"""Texts over a row: which columns they read, and what a row makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.rows.template import RenderError
from batchpipe.workflow.authoring.names import Fault, Names
from batchpipe.workflow.lowering.expressions import Expression, Text

NAMES = Names(
    ["title", "names", "range"],
    {"found": ("output", "items"), "judge": ("parsed",), "twin": ("output", "items")},
)
ROW: dict[str, Any] = {
    "title": "the old house",
    "names": ["a", "b"],
    "range": "5 km",
    "found": {"output": "yes", "items": [1, 2]},
    "judge": {"parsed": {"score": 0, "name": "x"}},
    "twin": {"output": "yes", "items": [1, 2]},
}


def numbered(reading: Text | Expression) -> tuple[str, list[str]]:
    numbers: dict[str, int] = {}
    text = reading.canonical(lambda column: numbers.setdefault(column, len(numbers)))
    return text, list(numbers)


def test_columns_are_told_in_the_order_of_their_first_use() -> None:
    text = Text(
        "{{ found.output }}{{ title | title }}{{ found['items'] }}{{ found.output }}", NAMES
    )
    assert text.columns == ("found.output", "title", "found.items")
    assert text.render(ROW) == "yesThe Old House[1, 2]yes"


def test_a_field_wins_over_a_method_of_the_same_name() -> None:
    assert Text("{{ found.items | length }}", NAMES).render(ROW) == "2"
    assert Expression("found.items", NAMES).evaluate(ROW) == [1, 2]


def test_what_a_template_names_itself_is_no_column() -> None:
    text = Text("{% for one in names %}{{ one }}{{ loop.index }}{% endfor %}{{ range }}", NAMES)
    assert text.columns == ("names", "range")
    assert text.render(ROW) == "a1b25 km"


def test_a_value_is_never_a_template() -> None:
    row = ROW | {"title": "{{ names }} ⟨0⟩"}
    assert Text("{{ title }}", NAMES).render(row) == "{{ names }} ⟨0⟩"


def test_canonical_texts_have_numbers_for_columns() -> None:
    text = Text("Is {{ found.output }} of {{ title }}\n{{ found.output }}?", NAMES)
    assert numbered(text) == ("Is ⟨0⟩ of ⟨1⟩\n⟨0⟩?", ["found.output", "title"])


def test_canonical_texts_of_twins_are_equal_and_of_others_are_not() -> None:
    def canonical(source: str) -> str:
        return numbered(Text(source, NAMES))[0]

    assert canonical("{{found.output|trim}}") == canonical("{{ twin['output'] | trim }}")
    assert canonical("{{ found.output | trim }}") != canonical("{{ found.output | upper }}")
    assert canonical("{{ title }}") != canonical("⟨0⟩")
    assert canonical("{{ title ~ '⟨1⟩' }}") != canonical("{{ title ~ names }}")


@given(st.text(alphabet="⟨⟩<=01a{}", max_size=12))
def test_no_text_of_the_author_looks_like_a_column(written: str) -> None:
    literal = "{% raw %}" + written + "{% endraw %}"
    canonical, columns = numbered(Text(literal, NAMES))
    assert columns == []
    assert "⟨0⟩" not in canonical
    assert "⟨1⟩" not in canonical
    assert canonical.replace("⟨<⟩", "⟨") == written


def test_expressions_give_what_json_can_hold() -> None:
    assert Expression("names | map('upper')", NAMES).evaluate(ROW) == ["A", "B"]
    assert Expression("{'n': (title, 1.5), 'm': none}", NAMES).evaluate(ROW) == {
        "n": ["the old house", 1.5],
        "m": None,
    }
    assert Expression("judge.parsed.score > 3 or found.output == 'yes'", NAMES).evaluate(ROW)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("judge.parsed.verdict", "judge.parsed.verdict failed: 'dict object' has no attribute"),
        ("[judge.parsed.verdict]", "has no attribute 'verdict'"),
        ("1 // judge.parsed.score", "1 // judge.parsed.score failed: .*by zero"),
        ("title.__class__", "title.__class__ failed: access to attribute '__class__'"),
        ("title + 1", "title \\+ 1 failed: can only concatenate str"),
    ],
)
def test_a_row_that_an_expression_does_not_fit_is_told_why(source: str, message: str) -> None:
    with pytest.raises(RenderError, match=message):
        Expression(source, NAMES).evaluate(ROW)


def test_a_row_that_a_template_does_not_fit_is_told_the_line() -> None:
    with pytest.raises(RenderError, match="template line 2 failed: division by zero"):
        Text("a\n{{ 1 / judge.parsed.score }}", NAMES).render(ROW)
    with pytest.raises(RenderError, match="the value is null"):
        Text("{{ title }}", NAMES).render(ROW | {"title": None})


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("{{ titel }}", 1, "nobody makes the column titel; did you mean title\\?; the input has"),
        ("\n{{ fond.output }}", 2, "nobody makes the column fond.output; did you mean found\\?"),
        ("{{ found.outputs }}", 1, "found makes no outputs; did you mean output\\?; found makes"),
        ("{{ found }}", 1, "found is a step, not a column; found makes found.output, found.items"),
        ("{{ found.output }", 1, "unexpected '}'"),
        ("\n\n{{ title | shout }}", 3, "No filter named 'shout'"),
        ("{% include 'x' %}", 1, "cannot read other templates"),
        ("{{ names | random }}", 1, "random would differ"),
        ("{% for found in names %}{% endfor %}{{ found.output }}", 1, "found is a step; give this"),
    ],
)
def test_a_mistake_in_a_template_is_told_with_its_line(
    source: str, line: int, message: str
) -> None:
    with pytest.raises(Fault, match=message) as caught:
        Text(source, NAMES)
    assert caught.value.line == line


def test_two_expressions_are_not_one() -> None:
    with pytest.raises(Fault, match="one expression ends here and more follows"):
        Expression("title names", NAMES)
