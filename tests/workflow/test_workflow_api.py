"""Workflows by the command line and from Python: one meaning, and each mistake a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flows import rows
from harness import call, files_in, read, write_lines

import batchpipe as bp

YAML = """
models:
  a: {{model: {model}, dtype: float32}}
steps:
  first: {{llm: a, template: "About {{{{ title }}}}:", max_tokens: 4}}
output: {{said: first.output}}
"""


@pytest.fixture
def written(model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(YAML.format(model=model))
    return path


def test_python_and_the_command_write_the_same(written: Path, model: Path, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", rows())
    out = tmp_path / "a.jsonl"
    ran = call("run", inputs, "--workflow", written, "-o", out, "--json", "--kv-memory", "20MB")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "10/10 rows, first 10"
    done = bp.run(inputs, workflow=written, out=tmp_path / "b.jsonl", kv_memory="20MB")
    assert done.rows == ran.summary["rows"] == 10
    seen: list[int] = []
    flow = bp.Workflow(models={"a": {"model": model, "dtype": "float32"}})
    flow.llm("first", "a", template="About {{ title }}:", max_tokens=4).output(said="first.output")
    flow.run(
        inputs,
        out=tmp_path / "c.jsonl",
        kv_memory="20MB",
        progress=lambda progress: seen.append(progress.steps["first"].rows),
    )
    assert seen[-1] == 10
    assert read(out) == read(tmp_path / "b.jsonl") == read(tmp_path / "c.jsonl")


def test_m_takes_the_place_of_the_only_model(model: Path, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", rows(2))
    flow = tmp_path / "flow.yaml"
    flow.write_text(YAML.format(model="not-there"))
    arguments = ("run", inputs, "--workflow", flow, "-o", tmp_path / "out.jsonl")
    missing = call(*arguments)
    assert missing.code == 2
    assert "model a of" in missing.sentence
    assert call(*arguments, "-m", model).code == 0
    flow.write_text(
        "models: {a: x, b: y}\nsteps:\n  one: {llm: a, template: '{{ title }}'}\n"
        "  two: {llm: b, template: '{{ title }}'}\n"
    )
    refused = call(*arguments, "-m", model, "--overwrite")
    assert refused.code == 2
    assert "has 2 models and -m can only take the place of one" in refused.sentence


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--temperature", "1"), "--temperature has no meaning with --workflow"),
        (("--template", "x"), "--template has no meaning with --workflow"),
        (("--engine", "openai"), "--engine has no meaning with --workflow"),
        (("--max-errors", "many"), "--max-errors 'many' is neither a count nor a share"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    option: tuple[str, str], told: str, written: Path, tmp_path: Path
) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", rows(2))
    ran = call("run", inputs, "--workflow", written, "-o", tmp_path / "out.jsonl", *option)
    assert ran.code == 2
    assert told in ran.sentence
    assert files_in(tmp_path) == {"in.jsonl", "flow.yaml"}


def test_status_and_report_of_a_workflow(written: Path, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", [*rows(3), {"genre": "no title"}])
    out = tmp_path / "out.jsonl"
    assert call("run", inputs, "--workflow", written, "-o", out).code == 3
    told = call("status", f"{out}.run", "--json").summary
    assert (told["state"], told["rows"], told["finished"], told["failed"]) == ("finished", 4, 4, 1)
    assert told["steps"]["first"]["failed"] == 1
    ran = call("report", f"{out}.run")
    assert ran.code == 0
    page = Path(f"{out}.run/report.html").read_text()
    assert "<svg" in page
    assert "step first failed: template line 1 failed" in page
    assert json.dumps(rows(1)[0]["names"]) not in page


def test_a_run_of_a_workflow_is_not_retried(written: Path, tmp_path: Path) -> None:
    inputs = write_lines(tmp_path / "in.jsonl", rows(2))
    out = tmp_path / "out.jsonl"
    assert call("run", inputs, "--workflow", written, "-o", out).code == 0
    refused = call("retry", f"{out}.run", "--status", "error")
    assert refused.code == 2
    assert "holds a run of a workflow" in refused.sentence
