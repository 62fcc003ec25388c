"""An input without rows: every workflow runs over it, asks nobody and gives an empty output."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flows import SHAPES
from harness import call, read

import batchpipe as bp

YAML = """
models:
  a: {{model: {model}, dtype: float32}}
steps:
  each: {{explode: names}}
  first: {{llm: a, template: "{{{{ each.item }}}}:", max_tokens: 4}}
  kind: {{reduce: each, by: [genre], items: {{name: each.item, said: first.output}}}}
output: {{genre: kind.genre, said: kind.items}}
"""
COLUMNS = pa.schema(
    [("title", pa.string()), ("genre", pa.string()), ("names", pa.list_(pa.string()))]
)


@pytest.fixture(params=["jsonl", "parquet"])
def nothing(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"none.{request.param}"
    if request.param == "jsonl":
        path.write_text("")
    else:
        pq.write_table(COLUMNS.empty_table(), path)
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_runs_over_nothing_and_loads_no_model(
    shape: str, nothing: Path, model: Path, tmp_path: Path
) -> None:
    names = ("a", "b") if shape in ("two_models", "voted", "cascaded") else ("a",)
    flow = SHAPES[shape](dict.fromkeys(names, model))
    summary = flow.run(nothing, out=tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    own = {"kind", "members", "summary"} if shape == "grouped" else flow.flow.output.keys()
    inputs = set(COLUMNS.names) if nothing.suffix == ".parquet" and shape != "grouped" else set()
    assert set(table.column_names) == {*inputs, *own, "status", "error"}
    assert (table.num_rows, summary.rows, summary.calls, summary.loads) == (0, 0, 0, 0)
    assert summary.exit_code == 0


def test_the_command_and_python_agree(nothing: Path, model: Path, tmp_path: Path) -> None:
    written = tmp_path / "flow.yaml"
    written.write_text(YAML.format(model=model))
    ran = call("run", nothing, "--workflow", written, "-o", tmp_path / "a.jsonl", "--json")
    assert (ran.code, ran.summary["rows"], ran.summary["loads"]) == (0, 0, 0)
    assert read(tmp_path / "a.jsonl") == []
    again = call("run", nothing, "--workflow", written, "-o", tmp_path / "a.jsonl")
    assert "this run is complete" in again.err
    done = bp.run(nothing, workflow=written, out=tmp_path / "b.parquet")
    assert done.rows == 0
    columns = ["genre", "said", "status", "error"]
    assert pq.read_schema(tmp_path / "b.parquet").names == columns


def test_a_column_of_the_input_may_be_shown_of_nothing(nothing: Path, tmp_path: Path) -> None:
    flow = bp.Workflow().filter("some", "genre == 'drama'").output(name="title")
    flow.run(nothing, out=tmp_path / "out.parquet")
    assert "name" in pq.read_schema(tmp_path / "out.parquet").names
    assert flow.plan(nothing).rows == 0
    assert flow.plan().rows is None


def test_a_table_without_rows_still_has_columns_and_types(tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    pq.write_table(COLUMNS.empty_table(), path)
    for step, sentence in (
        ("titel", "did you mean title"),
        ("title", "only a list has elements"),
    ):
        flow = bp.Workflow().explode("each", step)
        with pytest.raises(bp.ConfigError, match=sentence):
            flow.plan(path)
        with pytest.raises(bp.ConfigError, match=sentence):
            flow.run(path, out=tmp_path / "out.jsonl")
