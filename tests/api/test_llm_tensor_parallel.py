"""An LLM whose model is divided among processes: as any other, and nothing is left of it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from harness import read, write_lines
from other_ranks import is_there, ranks_of
from struck_runs import wait_until

import batchpipe as bp
from batchpipe.engine.attention import PagedAttention
from batchpipe.engine.ranks import other

Model = Callable[[str], Path]

TEXTS = [f"Question {number}: which ticket is urgent? Answer:" for number in range(6)]
PARAMS = bp.SamplingParams(max_tokens=6)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="divides over CUDA devices here")


def opened(model: Path, devices: int = 2) -> bp.LLM:
    return bp.LLM(model, device="cpu", kv_memory="20MB", tensor_parallel=devices)


def outputs(llm: bp.LLM) -> list[str | None]:
    return [answer.output for answer in llm.generate(TEXTS, PARAMS)]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.collect()
    assert not ranks_of(os.getpid()), "a rank outlives its LLM"
    assert not torch.distributed.is_initialized()


def test_it_answers_what_one_device_answers_in_every_call(model: Path, tmp_path: Path) -> None:
    table = pa.table({"prompt": TEXTS})
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": text} for text in TEXTS])
    with bp.LLM(model, kv_memory="20MB") as alone, opened(model) as shared:
        assert outputs(shared) == outputs(alone) == outputs(shared)
        one, two = (llm.score(TEXTS, [" the"] * len(TEXTS)) for llm in (alone, shared))
        assert [s.logprob for s in two] == pytest.approx([s.logprob for s in one], abs=1e-4)
        drawn = {"choices": ["high", "low"], "temperature": 1.0, "max_tokens": 9}
        assert bp.annotate(table, model=shared, **drawn) == bp.annotate(table, model=alone, **drawn)
        for llm, name in ((alone, "one.jsonl"), (shared, "two.jsonl")):
            assert bp.run(job, model=llm, out=tmp_path / name, max_tokens=6).succeeded == len(TEXTS)
        assert read(tmp_path / "two.jsonl") == read(tmp_path / "one.jsonl")
        assert bp.plan(job, model=shared, max_tokens=6).rows == len(TEXTS)
        with pytest.raises(bp.ConfigError, match="tensor_parallel belongs to the LLM"):
            bp.run(job, model=shared, out=tmp_path / "three.jsonl", tensor_parallel=2)


def test_two_of_them_have_the_same_processes(tiny_model: Model) -> None:
    with bp.LLM(tiny_model("qwen3"), kv_memory="20MB") as alone:
        expected = outputs(alone)
    first = opened(tiny_model("llama"))
    with opened(tiny_model("qwen3")) as second:
        [rank] = ranks_of(os.getpid())
        assert outputs(second) == expected != outputs(first)
        first.close()
        assert ranks_of(os.getpid()) == [rank]
        assert outputs(second) == expected
        with pytest.raises(bp.ConfigError, match="give tensor_parallel 2, or close the other"):
            opened(tiny_model("gpt_neox"), 4)


def test_its_processes_end_with_it_also_where_nobody_closes_it(model: Path) -> None:
    llm = opened(model)
    assert len(ranks_of(os.getpid())) == 1
    del llm
    gc.collect()
    assert not ranks_of(os.getpid())


def test_a_script_that_forgets_it_ends(model: Path) -> None:
    script = (
        "import sys, batchpipe as bp\n"
        "llm = bp.LLM(sys.argv[1], device='cpu', kv_memory='20MB', tensor_parallel=2)\n"
        "print(len(llm.generate(['Answer:'])))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(model)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1\n"


def test_a_dead_rank_is_told_in_one_sentence_by_every_call(model: Path) -> None:
    with opened(model) as llm:
        [rank] = ranks_of(os.getpid())
        os.kill(rank, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(bp.StoppedEarly) as told:
                outputs(llm)
            assert str(told.value) == (
                "rank 1 of 2, which holds its part of the model, ended (signal 9); make a new LLM, "
                "and give it the same call"
            )
        with bp.LLM(model, kv_memory="20MB") as alone, opened(model) as new:
            assert outputs(new) == outputs(alone)
            [rank] = ranks_of(os.getpid())
            os.kill(rank, signal.SIGKILL)  # while nobody asks
            wait_until(lambda: not is_there(rank))
            with opened(model) as newest:
                assert outputs(newest) == outputs(alone)


def test_a_rank_that_dies_as_it_loads_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other, "MODULE", "dying_rank")
    monkeypatch.setenv("DIES_AT", "Load")
    with pytest.raises(bp.StoppedEarly, match=r"ended \(signal 9\); make a new LLM"):
        opened(model)


def test_ctrl_c_amid_a_forward_pass_leaves_a_usable_llm(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend, calls = PagedAttention.attend, []

    def interrupted(self: PagedAttention, *given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return attend(self, *given, **named)

    with opened(model) as llm:
        alone = outputs(llm)
        monkeypatch.setattr(PagedAttention, "attend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            outputs(llm)
        monkeypatch.undo()
        assert outputs(llm) == alone


def test_what_breaks_amid_a_forward_pass_leaves_nobody_waiting(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: PagedAttention, *given: object, **named: object) -> object:
        raise TypeError("a kernel that is wrong")

    with opened(model) as llm:
        monkeypatch.setattr(PagedAttention, "attend", broken)
        with pytest.raises(TypeError, match="a kernel that is wrong"):
            outputs(llm)
        monkeypatch.undo()
        wait_until(lambda: not ranks_of(os.getpid()))
        with pytest.raises(bp.StoppedEarly, match=r"amid a step .*; make a new LLM"):
            outputs(llm)


def test_what_it_cannot_be_is_told_before_it_loads(tiny_model: Model) -> None:
    with pytest.raises(bp.ConfigError, match=r"^tensor_parallel 3: model .* give 1 or 2$"):
        opened(tiny_model("llama"), 3)
    with pytest.raises(bp.ConfigError, match="tensor_parallel is 0; it must be a whole number"):
        opened(tiny_model("llama"), 0)
    with pytest.raises(
        bp.ConfigError, match=r"^tensor_parallel 2: this machine has no CUDA device"
    ):
        bp.LLM(tiny_model("llama"), tensor_parallel=2)
