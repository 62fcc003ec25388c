"""KV in host memory changes no answer: what leaves the device comes back and is computed once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Ran, call, read, write_lines

from batchpipe.planner.machine.machines import CPU

# Answers are longer than a run expects, so that sequences are preempted.
SHARED = "Read the letter of the customer and say whether it is urgent. "
SHORT = ("--kv-memory", "96KB", "--step-tokens", 16, "--order", "input", "--max-tokens", 24)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four letters, asked about in turns: each is evicted before it is needed again."""
    rows = [{"prompt": f"{SHARED}Letter of {row % 4}: the box {row}"} for row in range(40)]
    return write_lines(tmp_path_factory.mktemp("job") / "job.jsonl", rows)


def run(job: Path, model: Path, out: Path, *options: object) -> Ran:
    return call("run", job, "-m", model, "-o", out, *SHORT, "--dtype", "float32", *options)


def test_a_run_with_host_memory_computes_less_and_answers_the_same(
    job: Path, model: Path, tmp_path: Path, fast_link: Path
) -> None:
    ran = {}
    for host in ("0", "8MB"):
        out = tmp_path / f"{host}.jsonl"
        ran[host] = run(
            job, model, out, "--machine", fast_link, "--host-kv-memory", host, "--json"
        ).summary
    without, beside = ran["0"], ran["8MB"]
    assert read(tmp_path / "0.jsonl") != []
    assert [row["output"] for row in read(tmp_path / "0.jsonl")] == [
        row["output"] for row in read(tmp_path / "8MB.jsonl")
    ]
    assert (without["swapped_tokens"], without["restored_tokens"]) == (0, 0)
    assert beside["swapped_tokens"] >= beside["restored_tokens"] > 0
    assert beside["computed_prompt_tokens"] < without["computed_prompt_tokens"]
    missed = beside["shareable_prompt_tokens"] - beside["reused_prompt_tokens"]
    assert missed <= beside["rows"], "nothing but each row's last token"


def test_people_are_told_how_much_moved(
    job: Path, model: Path, tmp_path: Path, fast_link: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    ran = run(job, model, out, "--machine", fast_link, "--host-kv-memory", "8MB")
    assert "moved to host memory, of " in ran.out
    assert call("report", f"{out}.run").code == 0
    assert "moved to host memory" in (tmp_path / "answers.jsonl.run" / "report.html").read_text()


def test_on_a_slow_link_and_by_default_on_a_cpu_nothing_moves(
    job: Path, model: Path, tmp_path: Path, fast_link: Path
) -> None:
    slow = tmp_path / "slow.json"
    slow.write_text(json.dumps({**CPU.as_fields(), "host_bytes_per_second": 1.0}))
    for name, options in {
        "slow": ("--machine", slow, "--host-kv-memory", "8MB"),
        "default": ("--machine", fast_link),
    }.items():
        summary = run(job, model, tmp_path / f"{name}.jsonl", *options, "--json").summary
        assert summary["swapped_tokens"] == 0


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("much", "--host-kv-memory 'much' is no amount of memory; write for example 4GB or auto"),
        ("-1GB", "--host-kv-memory '-1GB' is no amount of memory"),
        ("7", "--host-kv-memory 7 holds no block of 16 tokens"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_is_no_size_is_refused_in_a_sentence(
    job: Path, model: Path, tmp_path: Path, command: str, given: str, why: str
) -> None:
    out = ["-o", tmp_path / "out.jsonl"] if command == "run" else []
    ran = call(command, job, "-m", model, *out, "--host-kv-memory", given)
    assert ran.code == 2
    assert why in ran.err
    assert "Traceback" not in ran.err


def test_several_devices_or_another_engine_have_no_use_for_it(
    job: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    asked = ("--host-kv-memory", "1GB")
    ran = call("run", job, "-m", model, "-o", out, *asked, "--tensor-parallel", 2)
    assert ran.code == 2
    assert "--host-kv-memory 1GB is for a model on one device" in ran.err
    ran = call("run", job, "-m", model, "-o", out, *asked, "--engine", "vllm")
    assert ran.code == 2
    assert "--host-kv-memory 1GB is no option of --engine vllm" in ran.err


def test_a_plan_counts_with_the_host_memory(job: Path, model: Path, fast_link: Path) -> None:
    asked = ("plan", job, "-m", model, *SHORT, "--simulate", "--machine", fast_link, "--json")
    computed = [
        json.loads(call(*asked, "--host-kv-memory", host).out)["simulation"][
            "computed_prompt_tokens"
        ]
        for host in ("0", "8MB")
    ]
    assert computed[1] < computed[0]
