"""A list of any length is so many questions at once as others are, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow_interpreter import interpreted
from harness import read, write_lines

import batchpipe as bp
from batchpipe.workflow.running import runtime
from batchpipe.workflow.running.asking import Task
from batchpipe.workflow.running.model_asking import ModelAsking
from batchpipe.workflow.running.tool_asking import ToolAsking

MOST = 100  # questions at once
PIECE = 8


@pytest.fixture
def most_in_flight(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most questions that waited or were under way, so far."""
    monkeypatch.setattr(runtime, "MOST_QUESTIONS", MOST)
    monkeypatch.setattr(runtime, "ADMITTED_AT_ONCE", PIECE)
    most = [0]
    for kind in (ToolAsking, ModelAsking):
        begin: Callable[[Any, Task], None] = kind.begin

        def noted(asking: Any, task: Task, begin: Any = begin) -> None:
            begin(asking, task)
            waiting = sum(map(len, getattr(asking, "_unworded", {}).values()))
            most[0] = max(most[0], asking.unfinished + waiting)

        monkeypatch.setattr(kind, "begin", noted)
    return most


seen: list[int] = []


def noting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen.extend(row["item"] for row in rows)
    return [{"twice": 2 * row["item"]} for row in rows]


def test_one_row_of_many_elements_is_asked_in_pieces_in_order(
    tmp_path: Path, most_in_flight: list[int]
) -> None:
    seen.clear()
    inputs = write_lines(tmp_path / "in.jsonl", [{"few": 20_000}, {"few": 3}, {"few": 0}])
    flow = bp.Workflow().explode("each", "range(few)")
    flow.python("double", noting, reads=["each.item"], writes=["twice"], batch_rows=32)
    flow.reduce("all", "each", items={"twice": "double.twice"})
    flow.output(sum="all.items")
    summary = flow.run(inputs, out=tmp_path / "out.jsonl")
    assert summary.by_step["double"]["calls"] == 20_003
    assert MOST - PIECE < most_in_flight[0] <= MOST + PIECE
    assert seen == [*range(20_000), *range(3)]
    found = [[item["twice"] for item in row["sum"]] for row in read(tmp_path / "out.jsonl")]
    assert found == [[2 * n for n in range(count)] for count in (20_000, 3, 0)]


def test_a_models_prompts_are_bounded_too(
    tmp_path: Path, model: Path, most_in_flight: list[int]
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [{"few": 400}])
    flow = bp.Workflow(models={"m": {"model": model, "dtype": "float32"}})
    flow.explode("each", "range(few)")
    flow.llm("say", "m", template="{{ each.item }}", max_tokens=1)
    flow.output("each.index", "say.output")
    summary = flow.run(inputs, out=tmp_path / "out.jsonl", kv_memory="20MB")
    assert (summary.rows, summary.by_step["say"]["calls"]) == (400, 400)
    assert MOST - PIECE < most_in_flight[0] <= MOST + PIECE
    assert [row["each.index"] for row in read(tmp_path / "out.jsonl")] == [*range(400)]


def test_lists_in_lists_groups_and_filters_are_as_step_by_step(
    tmp_path: Path, most_in_flight: list[int]
) -> None:
    """Some rows are dropped while elements of theirs have not become rows."""
    rows = [{"few": few, "keep": few % 3} for few in (13, 0, 40, 5, 9, 1, 27, 11)]
    inputs = write_lines(tmp_path / "in.jsonl", rows)
    flow = bp.Workflow()
    flow.explode("outer", "range(few)")
    flow.explode("inner", "range(outer.item)")
    flow.python("seen", noting, reads=["inner.item"], writes=["twice"])
    flow.filter("some", "outer.item % 5 != 3")
    flow.filter("rows", "keep != 2")
    flow.filter("odd", "(seen.twice + outer.item) % 4 < 3")
    flow.reduce("inners", "inner", items={"x": "seen.twice"})
    flow.reduce("outers", "outer", items={"x": "inners.items", "o": "outer.item"})
    flow.output("outers.items")
    summary = flow.run(inputs, out=tmp_path / "out.jsonl")
    assert summary.failed == 0
    assert read(tmp_path / "out.jsonl") == interpreted(flow.flow, rows)
    assert most_in_flight[0] <= MOST + PIECE


def test_rows_of_elements_are_results_of_their_own(
    tmp_path: Path, most_in_flight: list[int]
) -> None:
    """Nothing is asked below the explode, and its rows are there all the same."""
    inputs = write_lines(tmp_path / "in.jsonl", [{"few": n} for n in (50, 0, 3)])
    flow = bp.Workflow().explode("each", "range(few)").output("each.item")
    assert flow.run(inputs, out=tmp_path / "out.jsonl").rows == 53
    found = [row["each.item"] for row in read(tmp_path / "out.jsonl")]
    assert found == [*range(50), *range(3)]
