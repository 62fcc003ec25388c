"""`--quantize` from the command line: what a run is, what it says, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness import Ran, call, read, write_lines

from batchpipe.demo.command import run_demo


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Is the letter of customer {row} urgent? "} for row in range(12)]
    return write_lines(tmp_path / "job.jsonl", rows)


def run(job: Path, model: Path, *options: object) -> Ran:
    return call(
        "run", job, "-m", model, "-o", job.parent / "out.jsonl", "--max-tokens", 4, *options
    )


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantized_run_says_so(job: Path, model: Path, kind: str) -> None:
    ran = run(job, model, "--quantize", kind, "--json")
    assert ran.code == 0, ran.err
    assert "torchao" not in ran.err, "its import is silent"
    assert (ran.summary["succeeded"], ran.summary["quantize"]) == (12, kind)
    assert len(read(job.parent / "out.jsonl")) == 12
    again = run(job, model, "--quantize", kind)
    assert "this run is complete" in again.err
    assert f"float32 with {kind} weights on cpu" in again.out


def test_a_run_with_other_weights_is_another_run(job: Path, model: Path) -> None:
    assert run(job, model, "--quantize", "int8").code == 0
    for options, now in ((("--quantize", "int4"), "int4"), ((), "None")):
        ran = run(job, model, *options)
        assert ran.code == 2
        assert "holds a run of something else: quantize was" in ran.sentence
        assert now.lower() in ran.sentence.lower() or "null" in ran.sentence


def test_an_unknown_kind_is_refused_with_those_that_there_are(job: Path, model: Path) -> None:
    ran = run(job, model, "--quantize", "int2")
    assert ran.code == 2
    for known in ("int8", "int4", "float8"):
        assert known in ran.err


def test_float8_is_refused_on_a_cpu_before_the_model_loads(job: Path, bare_model: Path) -> None:
    ran = run(job, bare_model, "--quantize", "float8", "--device", "cpu")
    assert ran.code == 2
    assert "--quantize float8 needs a Hopper GPU" in ran.sentence
    ran = call("plan", job, "-m", bare_model, "--quantize", "float8")
    assert ran.code == 2
    assert "--quantize float8 needs a Hopper GPU" in ran.sentence


def test_a_checkpoint_that_is_quantized_already_is_refused(
    job: Path, bare_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(bare_model, folder)
    path = folder / "config.json"
    stored = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | stored))
    for ran in (
        run(job, folder, "--quantize", "int8"),
        call("plan", job, "-m", folder, "--quantize", "int8"),
    ):
        assert ran.code == 2
        assert f"model {folder} is quantised already (gptq)" in ran.sentence
        assert "leave the option out" in ran.sentence


def test_a_plan_counts_fewer_bytes_and_less_time(job: Path, bare_model: Path) -> None:
    on_a_gpu = ("--machine", "h200", "--dtype", "bfloat16")  # small steps read more than compute
    plans = {}
    for kind in (None, "int8", "int4"):
        options = ("--quantize", kind) if kind else ()
        ran = call("plan", job, "-m", bare_model, *on_a_gpu, *options, "--json")
        assert ran.code == 0, ran.err
        plans[kind] = ran.summary
    for name in ("weight_bytes", "expected_seconds"):
        assert plans["int4"][name] < plans["int8"][name] < plans[None][name]
    text = call("plan", job, "-m", bare_model, "--quantize", "int8").out
    assert "GB (int8, the rest float32)" in text


def test_what_is_measured_with_integers_serves_no_other_run(job: Path, model: Path) -> None:
    ran = call("calibrate", "-m", model, "--quick", "--quantize", "int8", "--json")
    assert ran.code == 0, ran.err
    assert ran.summary["quantize"] == "int8"
    for options, measured in (((), False), (("--quantize", "int8"), True)):
        plan = call("plan", job, "-m", model, *options, "--json").summary
        assert plan["machine_measured"] is measured


def test_the_demo_is_as_right_with_8_bits(tmp_path: Path) -> None:
    whole = run_demo(str(tmp_path / "whole.parquet"), 200, dtype="float32").scores
    rounded = run_demo(str(tmp_path / "int8.parquet"), 200, dtype="float32", quantize="int8").scores
    assert abs(rounded.overall - whole.overall) <= 0.01
    assert whole.overall > 0.9
