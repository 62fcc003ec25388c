"""A run whose model is divided among processes: the same answers, whoever of them dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Row, call, ended, read, spawn, write_lines
from other_ranks import is_there, ranks_of
from struck_runs import parts_of, wait_until

from batchpipe.engine.ranks import other

ASKED = ("--ignore-eos", "--kv-memory", "20MB", "--device", "cpu", "--json")
SHARED = ("--tensor-parallel", 2)

Model = Callable[[str], Path]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="divides over CUDA devices here")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows below three prefixes, greedy and drawn, some with two samples."""
    heads = [f"{letter * 40} and then " for letter in "abc"]
    rows = [
        {
            "prompt": f"{heads[number % 3]}{number}",
            "temperature": float(number % 2 == 0),
            "n": 2 if number % 8 == 0 else 1,
            "max_tokens": 8 + 4 * number,
        }
        for number in range(24)
    ]
    return write_lines(tmp_path_factory.mktemp("job") / "job.jsonl", rows)


def arguments(job: Path, model: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("run", job, "-m", model, "-o", out, *ASKED, *more)


def test_two_ranks_answer_what_one_process_answers(
    tiny_model: Model, job: Path, tmp_path: Path
) -> None:
    more = ("--logprobs", 2, "--prompt-logprobs", 1)
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    one = call(*arguments(job, tiny_model("llama"), alone, *more))
    two = call(*arguments(job, tiny_model("llama"), shared, *more, *SHARED))
    assert (one.code, two.code) == (0, 0), two.err
    assert not ranks_of(os.getpid()), "a rank outlives its run"
    assert not torch.distributed.is_initialized()
    for name in ("completion_tokens", "computed_prompt_tokens", "steps", "peak_kv_tokens"):
        assert one.summary[name] == two.summary[name]
    for before, after in zip(read(alone), read(shared), strict=True):
        assert after["outputs"] == before["outputs"]
        assert scores(after) == pytest.approx(scores(before), abs=1e-4)


def scores(row: Row) -> list[float]:
    """All the numbers in a row's log-probabilities."""
    found: list[float] = []

    def look(value: object) -> None:
        if isinstance(value, float):
            found.append(value)
        for each in value.values() if isinstance(value, dict) else ():
            look(each)
        for each in value if isinstance(value, list) else ():
            look(each)

    look([row[name] for name in row if name.endswith("logprobs")])
    assert found
    return found


@pytest.mark.parametrize("struck", ["another rank", "rank 0"])
def test_a_killed_rank_ends_the_run_and_the_same_command_goes_on(
    tiny_model: Model, job: Path, tmp_path: Path, struck: str
) -> None:
    alone, out = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    model = tiny_model("llama")
    command = arguments(job, model, out, *SHARED)
    assert call(*arguments(job, model, alone)).code == 0
    run = spawn(*command)
    wait_until(lambda: parts_of(out) or run.poll() is not None)
    [other] = ranks_of(run.pid)
    os.kill(run.pid if struck == "rank 0" else other, signal.SIGKILL)
    ran = ended(run)
    if struck == "rank 0":
        assert ran.code == -signal.SIGKILL
    else:
        assert ran.code == 75
        assert "rank 1 of 2" in ran.sentence
        assert "signal 9" in ran.sentence
        assert "the same command goes on from there" in ran.sentence
    wait_until(lambda: not is_there(other))
    kept = {part: part.read_bytes() for part in parts_of(out)}
    assert kept
    again = call(*command)
    assert again.code == 0, again.err
    assert [row["outputs"] for row in read(out)] == [row["outputs"] for row in read(alone)]
    assert not ranks_of(os.getpid())


@pytest.mark.parametrize("order", ["Meet", "Load", "Bind", "Logits"])
def test_nobody_waits_for_a_rank_that_dies_on_the_way(
    tiny_model: Model, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(other, "MODULE", "dying_rank")
    monkeypatch.setenv("DIES_AT", order)
    ran = call(*arguments(job, tiny_model("llama"), tmp_path / "out.jsonl", *SHARED))
    assert ran.code == 75, ran.err
    assert "rank 1 of 2, which holds its part of the model, ended (signal 9)" in ran.sentence
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("llama", ("--tensor-parallel", 3), ("4 attention heads and 2 of keys", "give 1 or 2")),
        ("phi3", SHARED, ("Phi3ForCausalLM", "keeps all keys and values")),
        ("llama", (*SHARED, "--quantize", "int8"), ("--quantize int8", "leave one of the two")),
        ("llama", (*SHARED, "--device", "auto"), ("this machine has no CUDA device",)),
        ("llama", (*SHARED, "--device", "cuda"), ("this machine has no CUDA device",)),
    ],
)
def test_what_cannot_be_divided_is_refused_before_anything_loads(
    tiny_model: Model,
    job: Path,
    tmp_path: Path,
    name: str,
    more: tuple[object, ...],
    words: tuple[str, ...],
) -> None:
    ran = call(*arguments(job, tiny_model(name), tmp_path / "out.jsonl", *more))
    assert ran.code == 2
    assert f"--tensor-parallel {more[1]}" in ran.sentence
    for word in words:
        assert word in ran.sentence
    assert not ranks_of(os.getpid())


def test_a_model_that_cannot_be_loaded_is_told_by_all_ranks_as_one(
    bare_model: Path, job: Path, tmp_path: Path
) -> None:
    ran = call(*arguments(job, bare_model, tmp_path / "out.jsonl", *SHARED))
    assert ran.code == 2
    assert "its weights cannot be loaded" in ran.sentence
    assert not ranks_of(os.getpid())
