"""A plan for devices that share a model: that of one device which has as much as all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import call, write_lines

import batchpipe as bp
from batchpipe.explain import preview
from batchpipe.planner.machine.machines import MACHINES

Model = Callable[[str], Path]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{'The order is late. ' * 9}{number}"} for number in range(12)]
    return write_lines(tmp_path / "job.jsonl", rows)


def planned(job: Path, model: Path, *options: object) -> dict[str, Any]:
    ran = call("plan", job, "-m", model, "--max-tokens", 20, "--json", *options)
    assert ran.code == 0, ran.err
    return {name: told for name, told in ran.summary.items() if name != "machine_note"}


def test_two_devices_are_planned_as_one_with_as_much(job: Path, bare_model: Path) -> None:
    profile = job.parent / "both.json"
    both = replace(MACHINES["h200"].times(2), name="2 x h200")
    profile.write_text(json.dumps(both.as_fields()))
    shared = planned(job, bare_model, "--machine", "h200", "--tensor-parallel", 2)
    assert shared == planned(job, bare_model, "--machine", profile)
    alone = planned(job, bare_model, "--machine", "h200")
    assert shared["kv_tokens_available"] == pytest.approx(2 * alone["kv_tokens_available"], rel=0.1)


def test_a_model_too_large_for_one_device_is_planned_for_two(job: Path, bare_model: Path) -> None:
    profile = job.parent / "small.json"
    small = replace(MACHINES["l4"], name="small", memory_bytes=300_000)
    profile.write_text(json.dumps(small.as_fields()))
    asked = ("--machine", profile, "--dtype", "float32")
    ran = call("plan", job, "-m", bare_model, *asked)
    assert ran.code == 2
    assert "choose a larger machine" in ran.sentence
    assert planned(job, bare_model, *asked, "--tensor-parallel", 2)["machine"] == "2 x small"


def test_processes_of_one_processor_have_what_it_has(job: Path, bare_model: Path) -> None:
    asked = ("--device", "cpu", "--kv-memory", "20MB")
    assert planned(job, bare_model, *asked, "--tensor-parallel", 2) == planned(
        job, bare_model, *asked
    )


def test_the_function_plans_what_the_command_does(job: Path, bare_model: Path) -> None:
    told = bp.plan(job, model=bare_model, max_tokens=20, machine="h200", tensor_parallel=2)
    command = call(
        "plan", job, "-m", bare_model, "--max-tokens", 20, "--machine", "h200",
        "--tensor-parallel", 2,
    )  # fmt: skip
    assert str(told) == command.out.rstrip("\n")


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("llama", (3, "--machine", "h200"), ("4 attention heads and 2 of keys", "give 1 or 2")),
        ("phi3", (2, "--machine", "h200"), ("Phi3ForCausalLM", "keeps all keys and values")),
        ("llama", (2, "--quantize", "int8"), ("--quantize int8", "leave one of the two")),
    ],
)
def test_what_cannot_be_divided_is_refused_as_by_a_run(
    tiny_model: Model, job: Path, name: str, more: tuple[object, ...], words: tuple[str, ...]
) -> None:
    ran = call("plan", job, "-m", tiny_model(name), "--tensor-parallel", *more)
    assert ran.code == 2
    for word in (f"--tensor-parallel {more[0]}", *words):
        assert word in ran.sentence


@pytest.mark.parametrize(("found", "here"), [(0, "no CUDA device"), (1, "1 CUDA device;")])
def test_devices_that_are_not_here_are_refused_where_no_other_machine_is_named(
    job: Path, bare_model: Path, monkeypatch: pytest.MonkeyPatch, found: int, here: str
) -> None:
    monkeypatch.setattr(preview, "cuda_devices_here", lambda: found)
    ran = call("plan", job, "-m", bare_model, "--tensor-parallel", 2)
    assert ran.code == 2
    assert f"--tensor-parallel 2: this machine has {here}" in ran.sentence
    with pytest.raises(bp.ConfigError, match=f"^tensor_parallel 2: this machine has {here}"):
        bp.plan(job, model=bare_model, tensor_parallel=2)
    asked = ("--tensor-parallel", 2, "--device", "cuda")
    assert planned(job, bare_model, *asked)["machine"].startswith("2 x ")


def test_devices_that_are_here_are_planned_for(
    job: Path, bare_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "cuda_devices_here", lambda: 2)
    asked = ("--tensor-parallel", 2)
    assert planned(job, bare_model, *asked) == planned(job, bare_model, *asked, "--device", "cuda")


def test_it_needs_no_torch(job: Path, bare_model: Path) -> None:
    check = (
        "import sys\nfrom batchpipe.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: print(sys.modules.get('torch'), file=sys.stderr)"
    )
    words = ("plan", job, "-m", bare_model, "--machine", "h200", "--tensor-parallel", 2)
    ran = subprocess.run(
        [sys.executable, "-c", check, *map(str, words)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.rstrip().endswith("None")
