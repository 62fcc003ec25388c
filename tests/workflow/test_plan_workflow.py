"""`batchpipe plan --workflow`: what a workflow would ask, without weights and without asking."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import batchpipe as bp
from batchpipe.cli import commands
from batchpipe.errors import ConfigError

FLOW = """\
models: {m: MODEL}
steps:
  told: {llm: m, template: "What is {{ title }}?", max_tokens: 8}
  asked: {llm: m, template: "What is {{ title }}?", max_tokens: 8}
  unused: {llm: m, template: "{{ text }}"}
  long: {filter: text | length > 20}
  each: {explode: tags}
  fits: {llm: m, template: "{{ each.item }}? {{ asked.output }}", choices: [yes, no]}
  all: {reduce: each, items: {tag: each.item, fits: fits.output}}
output: [told.output, all.items]
"""


@pytest.fixture
def flow_file(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(FLOW.replace("MODEL", str(model)))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    columns = {
        "title": [f"film {place % 4}" for place in range(40)],
        "text": ["long " * (1 + 9 * (place % 2)) for place in range(40)],
        "tags": [["a", "b", "c"][: place % 4] for place in range(40)],
    }
    pq.write_table(pa.table(columns), path)
    return path


def planned(*arguments: object) -> Any:
    ran = CliRunner().invoke(commands, ["plan", *map(str, arguments)], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.output) if "--json" in arguments else ran.output


def test_calls_are_told_before_and_after_the_rules(flow_file: Path, rows: Path) -> None:
    plan = planned(rows, "--workflow", flow_file, "--json")
    steps = {step["name"]: step for step in plan["steps"]}
    assert plan["rows"] == 40
    assert steps["told"]["written"]["calls"] == 40
    assert steps["asked"]["same_as"] == "told"
    assert steps["unused"]["planned"] is None
    # Half of the rows are long, and their titles are two of the four.
    assert steps["told"]["after"] == ["long"]
    assert steps["told"]["planned"]["rows"] == 20
    assert steps["told"]["planned"]["calls"] < 20
    # The tags are counted: 10 rows each of none, one, two and three.
    assert steps["fits"]["written"]["calls"] == 60
    assert plan["calls"]["planned"] < plan["calls"]["written"]
    [phase] = plan["phases"]
    assert (phase["models"], phase["steps"]) == (["m"], ["told", "fits"])
    assert 0 < sum(step["seconds"] or 0 for step in plan["steps"]) < plan["expected_seconds"]
    assert plan["saved_calls"] == plan["calls"]["written"] - plan["calls"]["planned"]


def test_lines_of_json_are_counted_as_parquet_is(
    flow_file: Path, rows: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "rows.jsonl"
    table = pq.read_table(rows).to_pylist()
    lines.write_text("".join(json.dumps(row) + "\n" for row in table))
    assert (
        planned(lines, "--workflow", flow_file, "--json")["steps"]
        == (planned(rows, "--workflow", flow_file, "--json")["steps"])
    )


def test_the_text_shows_both_plans_and_what_the_rules_did(flow_file: Path, rows: Path) -> None:
    text = planned(rows, "--workflow", flow_file, "--limit", 8)
    assert "rows                8\n" in text
    assert "as written\ninput: title, text, tags\n" in text
    assert "   asked asks the same as told, which answers for both\n" in text
    parts = ["as written", "after the rules", "drop_unused spares", "phase 1: loads m; told, fits"]
    places = [text.index(f"\n{part}") for part in parts]
    assert places == sorted(places)


def test_a_workflow_alone_is_planned_for_a_row(flow_file: Path) -> None:
    plan = planned("--workflow", flow_file, "--json")
    assert plan["rows"] is None
    assert plan["steps"][0]["written"]["calls"] == 1


def test_an_input_without_rows_asks_nothing(flow_file: Path, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    plan = planned(tmp_path / "none.jsonl", "--workflow", flow_file, "--json")
    assert (plan["rows"], plan["calls"]["written"], plan["calls"]["planned"]) == (0, 0, 0)


def test_python_plans_the_same(flow_file: Path, rows: Path) -> None:
    plan = bp.Workflow.from_yaml(flow_file).plan(rows)
    assert json.loads(json.dumps(plan.as_json())) == planned(
        rows, "--workflow", flow_file, "--json"
    )
    assert "after the rules" in plan._repr_html_()


def test_types_of_json_lines_are_looked_at(flow_file: Path, tmp_path: Path) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"title": "a", "text": "b", "tags": "c"}\n{"title": "a"}\n')
    with pytest.raises(
        ConfigError, match="line 7, step each: explode: tags is a text; only a list"
    ):
        bp.Workflow.from_yaml(flow_file).plan(lines)


def test_what_does_not_go_with_a_workflow_is_refused_by_name(flow_file: Path, rows: Path) -> None:
    for option in (["--template", "x"], ["-m", "x"], ["--max-tokens", "3"], ["--simulate"]):
        ran = CliRunner().invoke(
            commands, ["plan", str(rows), "--workflow", str(flow_file), *option]
        )
        assert isinstance(ran.exception, ConfigError)
        assert "has no meaning with --workflow" in str(ran.exception)


def test_without_a_workflow_input_and_model_are_needed() -> None:
    for arguments, missing in ((["plan"], "argument 'INPUT'"), (["plan", "a"], "option '-m'")):
        ran = CliRunner().invoke(commands, arguments)
        assert ran.exit_code == 2
        assert f"Missing {missing}" in ran.output


def test_planning_a_workflow_loads_no_torch(flow_file: Path, rows: Path) -> None:
    check = (
        "import sys\nfrom click.testing import CliRunner\nfrom batchpipe.cli import commands\n"
        f"ran = CliRunner().invoke(commands, ['plan', {str(rows)!r}, '--workflow', "
        f"{str(flow_file)!r}])\nassert ran.exit_code == 0, ran\n"
        "print('torch' in sys.modules and sys.modules['torch'] is not None)"
    )
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
