"""A workflow's results are those of asking row by row, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flow_interpreter import interpreted
from flows import SHAPES, below, chain, exploded, grouped, rows, run, two_models
from harness import read, write_parquet

from batchpipe.errors import ConfigError
from batchpipe.workflow import begin
from batchpipe.workflow.builder import Workflow
from batchpipe.workflow.command import run_workflow
from batchpipe.workflow.options import WorkflowOptions
from batchpipe.workflow.running import runtime
from batchpipe.workflow.running.models import Opening
from batchpipe.workflow.step_progress import ToldSteps, UnwatchedSteps


@pytest.fixture
def models(tiny_model: Callable[[str], Path]) -> Mapping[str, Path]:
    return {"a": tiny_model("llama"), "b": tiny_model("qwen3")}


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other) if "margin" in other else one == other


@pytest.mark.parametrize("shape", SHAPES)
def test_results_equal_generate_row_by_row(
    shape: str, models: Mapping[str, Path], tmp_path: Path
) -> None:
    asks_both = shape in ("two_models", "voted", "cascaded")
    flow = SHAPES[shape](models if asks_both else {"a": models["a"]})
    found, summary = run(flow, rows(), tmp_path)
    expected = interpreted(flow.flow, rows())
    same(found, expected)
    assert summary.rows == len(expected)
    assert summary.failed == 0
    assert summary.exit_code == 0


def test_parquet_in_and_out_keeps_types(models: Mapping[str, Path], tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "in.parquet", rows())
    flow = exploded({"a": models["a"]})
    options = WorkflowOptions(str(source), str(tmp_path / "out.parquet"), kv_memory="20MB")
    run_workflow(flow.flow, options, watcher=UnwatchedSteps())
    same(read(tmp_path / "out.parquet"), interpreted(flow.flow, rows()))
    schema = pq.read_schema(tmp_path / "out.parquet")
    item = pa.struct([("name", pa.string()), ("said", pa.string())])
    assert schema.field("items").type.value_type == item


def test_models_that_do_not_fit_together_take_turns(
    models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = two_models(models)
    expected = interpreted(flow.flow, rows())
    monkeypatch.setattr(begin, "memory_bytes", lambda device: 1_200_000)
    seen: list[tuple[str, ...]] = []
    found, summary = run(flow, rows(), tmp_path, watcher=ToldSteps(lambda p: seen.append(p.models)))
    same(found, expected)
    assert all(len(together) == 1 for together in seen)
    assert summary.loads == 3  # a, b, and a once more


@pytest.mark.parametrize("shape", ["voted", "cascaded"])
def test_the_next_model_may_come_later(
    shape: str, models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = SHAPES[shape](models)
    expected = interpreted(flow.flow, rows())
    monkeypatch.setattr(begin, "memory_bytes", lambda device: 1_200_000)
    found, _ = run(flow, rows(), tmp_path)
    same(found, expected)


def test_few_rows_in_memory_are_enough(
    models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "MOST_TREES", 2)
    monkeypatch.setattr(runtime, "ADMITTED_AT_ONCE", 1)
    flow = grouped({"a": models["a"]})
    found, _ = run(flow, rows(), tmp_path)
    same(found, interpreted(flow.flow, rows()))


def test_equal_questions_are_asked_once(models: Mapping[str, Path], tmp_path: Path) -> None:
    flow = Workflow(models={"a": models["a"]})
    flow.llm("kind", "a", template="{{ genre }} is", max_tokens=5)
    flow.llm("more", "a", template="{{ kind.output }} and", max_tokens=5)
    flow.output("kind.output", "more.output")
    found, summary = run(flow, rows(30), tmp_path)
    same(found, interpreted(flow.flow, rows(30)))
    for step in ("kind", "more"):
        assert summary.by_step[step]["calls"] == 3
        assert summary.by_step[step]["collapsed"] == 27
    assert summary.computed_prompt_tokens < summary.prompt_tokens / 5


def test_a_failed_row_takes_along_what_needs_it_and_nothing_else(
    models: Mapping[str, Path], tmp_path: Path
) -> None:
    flow = Workflow(models={"a": models["a"]})
    flow.llm("first", "a", template="{{ title }}", max_tokens=3)
    flow.llm("bad", "a", template="{{ 1 // (n - 3) }}{{ first.output }}", max_tokens=3)
    flow.llm("after", "a", template="{{ bad.output }}!", max_tokens=3)
    flow.llm("beside", "a", template="{{ first.output }}?", max_tokens=3)
    flow.output("after.output", "beside.output")
    inputs = [{"title": f"t {n}", "n": n} for n in range(6)]
    found, summary = run(flow, inputs, tmp_path)
    expected = interpreted(flow.flow, inputs)
    same(found, expected)
    assert summary.failed == 1
    assert summary.exit_code == 3
    assert found[3]["error"].startswith("step bad failed: template")
    assert found[3]["after.output"] is None
    assert found[3]["beside.output"] is not None


@pytest.mark.parametrize("on_error", ["fail", "skip"])
@pytest.mark.parametrize("by", [[], ["genre"]])
def test_a_failed_element_fails_its_reduce_or_is_left_out(
    on_error: str, by: list[str], models: Mapping[str, Path], tmp_path: Path
) -> None:
    flow = Workflow(models={"a": models["a"]})
    flow.explode("each", "names")
    flow.llm(
        "judge", "a", template="{{ 1 // (5 - each.item | length) }} {{ each.item }}", max_tokens=3
    )
    flow.reduce("all", "each", items={"said": "judge.output"}, by=by, on_error=on_error)
    flow.llm("end", "a", template="{{ all['items'] | length }} so", max_tokens=3)
    flow.output("end.output", "all.items")
    inputs = [{"genre": n % 2, "names": ["a" * length for length in range(n, 6)]} for n in range(7)]
    inputs[4]["names"] = 7  # no list
    found, _ = run(flow, inputs, tmp_path)
    same(found, interpreted(flow.flow, inputs))


def test_a_row_whose_explode_fails_is_told(models: Mapping[str, Path], tmp_path: Path) -> None:
    inputs = [{"title": "a", "names": ["x", "y"]}, {"title": "b", "names": "x"}]
    flow = below({"a": models["a"]})
    found, summary = run(flow, inputs, tmp_path)
    same(found, interpreted(flow.flow, inputs))
    assert [row["status"] for row in found] == ["success", "success", "error"]
    assert summary.rows == 3


def test_a_prompt_beyond_the_context_is_an_error_of_its_row(
    models: Mapping[str, Path], tmp_path: Path
) -> None:
    flow = Workflow(models={"a": models["a"]})
    flow.llm("first", "a", template="{{ title }}", max_tokens=3)
    inputs = [{"title": "short"}, {"title": "long " * 600}, {"title": ""}]
    found, _ = run(flow, inputs, tmp_path)
    same(found, interpreted(flow.flow, inputs))
    assert [row["status"] for row in found] == ["success", "error", "error"]


def test_a_line_that_is_no_row_is_an_error_of_its_own(
    models: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"title": "a", "genre": "x"}\n{"title": \n')
    found, _ = run(grouped({"a": models["a"]}), [], tmp_path)
    assert [row["status"] for row in found] == ["success", "error"]
    assert "line 2" in found[1]["error"]
    found, _ = run(chain({"a": models["a"]}), [], tmp_path, out="other.jsonl")
    assert [row["status"] for row in found] == ["success", "error"]


def test_a_model_that_is_not_there_is_told_before_another_loads(
    models: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Opening, "__call__", lambda *given: pytest.fail("a model was loaded"))
    flow = two_models({"a": models["a"], "b": tmp_path / "none"})
    with pytest.raises(ConfigError, match=r"model b of the workflow: model .*none cannot be"):
        run(flow, rows(), tmp_path)
