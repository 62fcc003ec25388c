"""What is counted in an input, and what follows from it for the steps."""

from __future__ import annotations

import pyarrow as pa
import pytest
from toy_workflows import step, workflow

from batchpipe.planner.query.counts import Counts
from batchpipe.planner.query.estimate import estimated
from batchpipe.planner.query.graph import INPUT
from batchpipe.planner.query.rules import collapse_rows
from batchpipe.planner.query.statistics import Statistics, distinct_values

TABLE = pa.table(
    {
        "title": [f"title {row}" for row in range(60)],
        "genre": [row % 3 for row in range(60)],
        "text": [[row % 4, None] for row in range(60)],
    }
)


def test_different_values_are_counted_alone_and_together() -> None:
    sets = [("title",), ("genre",), ("text",), ("genre", "text")]
    assert distinct_values(TABLE, sets) == {
        ("title",): 60,
        ("genre",): 3,
        ("text",): 4,
        ("genre", "text"): 12,
    }


def test_objects_are_counted_whatever_the_order_of_their_names() -> None:
    objects = pa.table({"a": [{"x": 1, "y": None}, {"y": None, "x": 1}, {"x": 2, "y": "b"}, None]})
    assert distinct_values(objects, [("a",)]) == {("a",): 3}


def test_a_step_asks_as_often_as_there_are_different_rows_behind_it() -> None:
    graph = workflow(
        step("label", "llm", "genre"),
        step("clean", "python", "label.output", "text"),
        step("judge", "llm", "clean.value"),
        step("drawn", "llm", "genre", is_pure=False),
        step("next", "llm", "drawn.output"),
        step("none", "llm"),
        outputs=("judge.output",),
    )
    counts = Counts(graph, Statistics({INPUT: 60}))
    assert {("genre",), ("genre", "text")} <= counts.together_read()
    statistics = Statistics({INPUT: 60}, distinct_values(TABLE, counts.together_read()))
    found = estimated(collapse_rows(graph, statistics), statistics)
    calls = {name: each.calls for name, each in found.items()}
    assert calls == {"label": 3, "clean": 60, "judge": 12, "drawn": 60, "next": 60, "none": 1}


def test_a_prompts_text_is_computed_once_for_each_different_beginning() -> None:
    blocks = ("Be brief. ⟨0⟩ is the genre. ⟨1⟩",)
    graph = workflow(step("ask", "llm", "genre", "title", blocks=blocks), outputs=("ask.output",))
    statistics = Statistics(
        {INPUT: 60},
        {("genre",): 3},
        column_tokens={"genre": 2, "title": 7},
        static_tokens={"ask": (24,)},
        output_tokens={"ask": 5},
    )
    found = estimated(graph, statistics)["ask"]
    head, middle = 24 * 10 / 25, 24 * 15 / 25
    assert found.prompt_tokens == pytest.approx(60 * 33)
    assert found.computed_tokens == pytest.approx(head + 3 * (2 + middle) + 60 * 7)
    assert found.output_tokens == 300


def test_an_empty_input_asks_nothing() -> None:
    graph = workflow(
        step("each", "explode", "text"),
        step("ask", "llm", "each.item", level="each"),
        step("label", "llm", "genre"),
        outputs=("ask.output",),
    )
    found = estimated(collapse_rows(graph, Statistics({INPUT: 0})), Statistics({INPUT: 0}))
    assert {name: each.calls for name, each in found.items()} == {"each": 0, "ask": 0, "label": 0}
