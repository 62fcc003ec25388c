"""Where repeated text stands behind what differs, the gain of turning that round is right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.explain.column_order import (
    MOST_ROWS,
    BetterOrder,
    better_column_order,
    better_line_order,
    sampled_rows,
    shareable_share,
    template_parts,
)
from batchpipe.planner.request import Prompts

HEAD = "Write a query.\n"
SCHEMAS = [f"Table {name}\n" + "".join(f"column {name}{i}\n" for i in range(9)) for name in "ab"]
QUESTIONS = [f"How many are {word}?\n" for word in ("red", "new", "sold", "lost", "old", "big")]

block_rows = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=5))


class Characters:
    """A tokenizer whose tokens are characters."""

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))

    def batch_decode(self, rows: list[list[int]]) -> list[str]:
        return [self.decode(row) for row in rows]


def of_texts(texts: list[str]) -> BetterOrder:
    return better_line_order(Prompts.pack([[*map(ord, text)] for text in texts]), Characters())


def of_template(source: str, rows: list[dict[str, Any]]) -> BetterOrder | None:
    columns = list(rows[0])
    values = {name: [row[name] for row in rows] for name in columns}
    return better_column_order(template_parts(source, columns), values)


@given(block_rows)
def test_the_shareable_share_is_that_of_an_explicit_trie(rows: list[list[tuple[int, int]]]) -> None:
    total = sum(length for row in rows for _, length in row)
    paths = {tuple(row[: place + 1]) for row in rows for place in range(len(row))}
    distinct = sum(path[-1][1] for path in paths)
    assert shareable_share(rows) == pytest.approx(1 - distinct / total if total else 0)


def test_a_question_before_a_schema_loses_the_schema() -> None:
    texts = [HEAD + q + SCHEMAS[row % 2] for row, q in enumerate(QUESTIONS)]
    turned = [HEAD + SCHEMAS[row % 2] + q for row, q in enumerate(QUESTIONS)]
    better = of_texts(texts)
    total = sum(map(len, texts))
    assert better.before == pytest.approx(5 * len(HEAD) / total)
    shared = 5 * len(HEAD) + 2 * len(SCHEMAS[0]) + 2 * len(SCHEMAS[1])
    assert better.after == pytest.approx(shared / total)
    assert better.worth
    assert better.moved in SCHEMAS[0] + SCHEMAS[1]
    now = of_texts(turned)
    assert now.before == now.after == pytest.approx(better.after)
    assert not now.worth


def test_texts_of_their_own_have_nothing_to_move() -> None:
    better = of_texts([f"Tell me of {row}.\nMore of {row}.\n" for row in range(9)])
    assert (better.before, better.after, better.moved) == (0, 0, "")


def test_a_text_without_line_breaks_is_one_line() -> None:
    assert of_texts(["the same", "the same", "another"]).before == pytest.approx(8 / 23)


def test_the_columns_to_move_are_named() -> None:
    rows = [{"q": question, "schema": SCHEMAS[0]} for question in QUESTIONS]
    better = of_template("Q: {{ q }}\nS: {{ schema | trim }}\nA:", rows)
    assert better is not None
    assert better.moved == "{{ schema }} before {{ q }}"
    assert better.worth
    assert of_template("S: {{ schema }}\nQ: {{ q }}\nA:", rows) is None


def test_all_columns_that_must_pass_are_named() -> None:
    rows = [{"a": str(row), "b": "same", "c": "ab"[row % 2]} for row in range(6)]
    better = of_template("{{ a }}{{ b }}{{ c }}", rows)
    assert better is not None
    assert better.moved == "{{ b }}, {{ c }} before {{ a }}"


def test_a_condition_is_one_place_with_all_its_columns() -> None:
    parts = template_parts("x{% if a %}{{ b }}{% endif %}yz{{ c }}!", ["a", "b", "c"])
    assert [(part.fixed_characters, part.columns) for part in parts] == [
        (1, ("a", "b")),
        (2, ("c",)),
        (1, ()),
    ]


def test_a_template_without_columns_has_no_order() -> None:
    assert better_column_order(template_parts("the same", []), {}) is None


@pytest.mark.parametrize("count", [0, 1, MOST_ROWS, MOST_ROWS + 1, 10 * MOST_ROWS + 7])
def test_the_sample_is_bounded_and_of_rows_that_exist(count: int) -> None:
    rows = sampled_rows(count)
    assert len(rows) <= MOST_ROWS
    assert len(set(rows.tolist())) == len(rows) == min(count, len(rows))
    assert all(0 <= row < count for row in rows.tolist())


@given(st.lists(st.lists(st.sampled_from(["x\n", "yy\n", "z"]), max_size=4), min_size=1))
def test_shares_are_shares(lines: list[list[str]]) -> None:
    texts = ["".join(row) or "-" for row in lines]
    better = of_texts(texts)
    assert 0 <= better.before < 1
    assert 0 <= better.after < 1
