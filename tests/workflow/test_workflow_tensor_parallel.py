"""Workflows whose models are divided among processes: the same results, whoever of them dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness import call, ended, read, spawn, write_lines
from other_ranks import is_there, ranks_of
from struck_runs import IMPATIENT_FLOW, parts_of, wait_until

import batchpipe as bp
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.workflow import begin

Model = Callable[[str], Path]

FLOW = """\
models:
  a: {{model: {a}, kv_memory: 20MB{of_a}}}
  b:
    model: {b}
    kv_memory: 20MB{of_b}
steps:
  first: {{llm: a, template: "{{{{ title }}}} is", max_tokens: 40}}
  second: {{llm: b, template: "{{{{ first.output }}}} and", max_tokens: 30}}
  third: {{llm: a, template: "{{{{ second.output }}}} then", max_tokens: 20}}
"""

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="divides over CUDA devices here")


@pytest.fixture(scope="module")
def models(tiny_model: Model) -> Mapping[str, Path]:
    return {"a": tiny_model("llama"), "b": tiny_model("qwen3")}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"title": f"{'the parcel ' * 9}{number}"} for number in range(24)]
    return write_lines(tmp_path_factory.mktemp("inputs") / "in.jsonl", rows)


def flow_file(folder: Path, models: Mapping[str, Path], of_a: str = "", of_b: str = "") -> Path:
    path = folder / "flow.yaml"
    below = f"\n    {of_b}" if of_b else ""
    path.write_text(FLOW.format(**models, of_a=f", {of_a}" if of_a else "", of_b=below))
    return path


def arguments(inputs: Path, flow: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("run", inputs, "--workflow", flow, "-o", out, "--device", "cpu", "--json", *more)


@pytest.fixture(scope="module")
def expected(
    inputs: Path, models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, object]]:
    folder = tmp_path_factory.mktemp("alone")
    out = folder / "out.jsonl"
    assert call(*arguments(inputs, flow_file(folder, models), out)).code == 0
    return read(out)


@pytest.mark.parametrize(
    ("of_a", "of_b", "more"),
    [
        ("tensor_parallel: 2", "", ()),
        ("", "", ("--tensor-parallel", 2)),  # both of them, by the same processes
        ("", "tensor_parallel: 1", ("--tensor-parallel", 2)),
    ],
)
@pytest.mark.parametrize("has_room", [True, False])
def test_divided_models_answer_as_whole_ones(
    inputs: Path,
    models: Mapping[str, Path],
    tmp_path: Path,
    expected: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    of_a: str,
    of_b: str,
    more: tuple[object, ...],
    has_room: bool,
) -> None:
    if not has_room:  # for both at once
        monkeypatch.setattr(begin, "memory_bytes", lambda device: 1_200_000)
    out = tmp_path / "out.jsonl"
    flow = flow_file(tmp_path, models, of_a, of_b)
    ran = call(*arguments(inputs, flow, out, *more))
    assert ran.code == 0, ran.err
    assert read(out) == expected
    assert ran.summary["loads"] == (2 if has_room else 3)
    assert not ranks_of(os.getpid())


def test_python_says_the_same(
    inputs: Path, models: Mapping[str, Path], tmp_path: Path, expected: list[dict[str, object]]
) -> None:
    made = {name: {"model": each, "kv_memory": "20MB"} for name, each in models.items()}
    flow = bp.Workflow(models={**made, "b": {**made["b"], "tensor_parallel": 2}})
    flow.llm("first", "a", template="{{ title }} is", max_tokens=40)
    flow.llm("second", "b", template="{{ first.output }} and", max_tokens=30)
    flow.llm("third", "a", template="{{ second.output }} then", max_tokens=20)
    bp.run(inputs, workflow=flow, out=tmp_path / "out.jsonl", device="cpu")
    assert read(tmp_path / "out.jsonl") == expected
    done = flow.run(inputs, out=tmp_path / "again.jsonl", device="cpu", tensor_parallel=2)
    assert read(tmp_path / "again.jsonl") == expected
    assert done.succeeded == 24


def test_a_killed_rank_ends_the_run_and_the_same_command_goes_on(
    inputs: Path, models: Mapping[str, Path], tmp_path: Path, expected: list[dict[str, object]]
) -> None:
    out = tmp_path / "out.jsonl"
    command = arguments(inputs, flow_file(tmp_path, models, "tensor_parallel: 2"), out)
    run = spawn(*command, script=IMPATIENT_FLOW)
    wait_until(lambda: parts_of(out) or run.poll() is not None)
    [other] = ranks_of(run.pid)
    os.kill(other, signal.SIGKILL)
    ran = ended(run)
    assert ran.code == 75, ran.err
    assert "rank 1 of 2" in ran.sentence
    assert "the same command goes on from there" in ran.sentence
    assert not is_there(other)
    again = call(*command)
    assert again.code == 0, again.err
    assert read(out) == expected
    assert not ranks_of(os.getpid())


@pytest.mark.parametrize(
    ("of_a", "of_b", "words"),
    [
        ("tensor_parallel: 3, device: cpu", "", ("model a of ", "(line 2)", "give 1 or 2")),
        ("", "tensor_parallel: 0", ("line 3", "model b", "tensor_parallel is 0")),
        ("", "tensor_parallel: 2\n    quantize: int8", ("(line 3)", "leave one of the two")),
        ("tensor_parallel: 2", "tensor_parallel: 4", ("model b of ", "(line 3)", "the same")),
        (
            "tensor_parallel: 2, device: auto",
            "",
            ("model a of ", "(line 2)", "this machine has no CUDA device"),
        ),
    ],
)
def test_what_cannot_be_divided_is_told_with_its_line_before_anything_loads(
    inputs: Path, bare_model: Path, tmp_path: Path, of_a: str, of_b: str, words: tuple[str, ...]
) -> None:
    flow = flow_file(tmp_path, {"a": bare_model, "b": bare_model}, of_a, of_b)
    ran = call(*arguments(inputs, flow, tmp_path / "out.jsonl"))
    assert ran.code == 2
    for word in (str(flow), "tensor", *words):
        assert word in ran.sentence
    assert not (tmp_path / "out.jsonl.run" / "manifest.json").exists()
    planned = call("plan", inputs, "--workflow", flow)
    assert planned.code == 2
    assert planned.sentence == ran.sentence


def test_a_plan_counts_the_memory_of_all_devices(
    inputs: Path, bare_model: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "small.json"
    # Room for one model and its keys at a time, or for both where each is divided.
    small = replace(MACHINES["l4"], name="small", memory_bytes=1_000_000)
    profile.write_text(json.dumps(small.as_fields()))
    phases = []
    for of_each in ("dtype: float32", "dtype: float32, tensor_parallel: 2"):
        of_b = of_each.replace(", ", "\n    ")
        flow = flow_file(tmp_path, {"a": bare_model, "b": bare_model}, of_each, of_b)
        ran = call("plan", inputs, "--workflow", flow, "--machine", profile, "--json")
        assert ran.code == 0, ran.err
        phases.append([each["models"] for each in ran.summary["phases"]])
    assert all(len(together) == 1 for together in phases[0])
    assert phases[1] == [["a", "b"]]
