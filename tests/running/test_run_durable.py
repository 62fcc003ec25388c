"""Two writers, damaged parts, changed inputs, a lost device: each with its promised outcome."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Row, call, ended, read, spawn, write_lines

from batchpipe.engine.model import Decoder
from batchpipe.running import own_engine

ROWS = 60


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = ({"prompt": f"Please tell them of the new box, {row}"} for row in range(ROWS))
    return write_lines(tmp_path / "job.jsonl", rows)


def command(job: Path, model: Path, *more: object) -> list[object]:
    limits = ("--max-tokens", 12, "--step-tokens", 24, "--json")
    return ["run", job, "-m", model, "-o", job.parent / "answers.jsonl", *limits, *more]


@pytest.fixture
def run_dir(job: Path) -> Path:
    return job.parent / "answers.jsonl.run"


def wait_for_parts(run_dir: Path, process: Any) -> None:
    """Until some results are committed."""
    path = run_dir / "manifest.json"
    while process.poll() is None and not (path.exists() and manifest(run_dir)["parts"]):
        time.sleep(0.005)


def test_a_second_process_is_told_who_writes(job: Path, model: Path, run_dir: Path) -> None:
    first = spawn(*command(job, model))
    wait_for_parts(run_dir, first)
    first.send_signal(signal.SIGSTOP)
    try:
        second = call(*command(job, model))
        told = call("status", run_dir, "--json").summary
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.code == 75
    assert f"process {first.pid}" in second.sentence
    assert str(run_dir) in second.sentence
    assert told["state"] == "running"
    assert ended(first).code == 0
    assert len(read(job.parent / "answers.jsonl")) == ROWS


def test_a_killed_process_leaves_no_lock(job: Path, model: Path, run_dir: Path) -> None:
    first = spawn(*command(job, model))
    wait_for_parts(run_dir, first)
    first.kill()
    assert ended(first).code == -signal.SIGKILL
    told = call("status", run_dir, "--json").summary
    assert told["state"] == "stopped"
    assert 0 < told["finished"] < ROWS
    assert call(*command(job, model)).code == 0
    assert call("status", run_dir, "--json").summary["state"] == "finished"


def test_a_part_that_is_damaged_is_named_and_computed_again(
    job: Path, model: Path, run_dir: Path
) -> None:
    out = job.parent / "answers.jsonl"
    call(*command(job, model))
    rows = read(out)
    [part] = run_dir.glob("parts/*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 4
    part.write_bytes(bytes(content))
    out.unlink()
    ran = call(*command(job, model))
    assert ran.code == 0
    assert f"{run_dir}: parts/{part.name}" in ran.err
    assert f"{ROWS} rows" in ran.err
    assert ran.summary["kv_tokens"] > 0
    assert read(out) == rows


def test_a_run_with_too_many_errors_stops_and_goes_on(tmp_path: Path, model: Path) -> None:
    rows: list[Row] = [{"prompt": "Please tell them", "max_tokens": 4} for _ in range(10)]
    for row in rows[2:5]:
        row["max_tokens"] = 0
    job = write_lines(tmp_path / "job.jsonl", rows)
    ran = call(*command(job, model, "--max-errors", "20%"))
    assert ran.code == 75
    assert "stopped by --max-errors with 3 of 10 rows finished, 3 of them failed" in ran.sentence
    assert not (tmp_path / "answers.jsonl").exists()
    assert call(*command(job, model, "--max-errors", "30%")).code == 0
    assert len(read(tmp_path / "answers.jsonl")) == 10


def test_an_input_that_changes_under_a_run_is_told_and_nothing_is_lost(
    job: Path, model: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = job.read_text()
    computed = Decoder.logits

    def change(self: Decoder, batch: Any) -> torch.Tensor:
        job.write_text(text.replace("box", "cup"))
        return computed(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "logits", change)
        ran = call(*command(job, model))
    assert ran.code == 1
    assert "job.jsonl changed" in ran.sentence
    assert "restore it and run the same command again" in ran.sentence
    job.write_text(text)
    again = call(*command(job, model))
    assert (again.code, again.summary["kv_tokens"]) == (0, 0)


def test_memory_that_is_short_makes_steps_smaller_and_is_told(
    job: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = job.parent / "answers.jsonl"
    call(*command(job, model))
    rows = read(out)
    computed = Decoder.logits

    def short(self: Decoder, batch: Any) -> torch.Tensor:
        if len(batch.input_ids) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return computed(self, batch)

    monkeypatch.setattr(Decoder, "logits", short)
    monkeypatch.setattr(own_engine, "check_attention", lambda *given: None)  # has larger batches
    ran = call(*command(job, model, "--overwrite"))
    assert ran.code == 0, ran.err
    assert ran.summary["memory_shortages"] >= 2
    assert ran.summary["most_tokens"] == 6
    assert read(out) == rows


def test_a_lost_device_ends_resumably(
    job: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, steps = Decoder.logits, iter(range(1000))

    def lost(self: Decoder, batch: Any) -> torch.Tensor:
        if next(steps) > 30:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return computed(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "logits", lost)
        ran = call(*command(job, model))
    assert ran.code == 75
    assert "CUDA error: unspecified launch failure" in ran.sentence
    assert "the same command goes on" in ran.sentence
    again = call(*command(job, model))
    assert again.code == 0
    assert again.summary["rows"] == ROWS


def manifest(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "manifest.json").read_text()))


def test_other_weights_of_the_same_size_are_another_model(
    job: Path, model_that_says: Any, run_dir: Path
) -> None:
    model = model_that_says()
    call(*command(job, model))
    weights = model / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-400] + bytes(reversed(content[-400:])))
    ran = call(*command(job, model))
    assert ran.code == 2
    assert "model_files differ in model.safetensors" in ran.sentence
    assert f"{ROWS} of its {ROWS} rows are finished" in ran.sentence


def test_a_template_that_changed_in_its_file_is_another_run(job: Path, model: Path) -> None:
    template = job.parent / "template"
    template.write_text("Say: {{ prompt }}")
    assert call(*command(job, model, "--template", f"@{template}")).code == 0
    template.write_text("Tell: {{ prompt }}")
    ran = call(*command(job, model, "--template", f"@{template}"))
    assert ran.code == 2
    assert "template was 'Say: {{ prompt }}' and is 'Tell: {{ prompt }}'" in ran.sentence


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes a day back and two days on at every look."""
    true_time, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: true_time() + 86_400 * (-1) ** next(jumps))


@pytest.mark.usefixtures("jumping_clock")
def test_a_clock_that_jumps_changes_nothing(job: Path, model: Path, run_dir: Path) -> None:
    assert call(*command(job, model)).code == 0
    assert len(read(job.parent / "answers.jsonl")) == ROWS
    told = call("status", run_dir, "--json").summary
    assert told["finished"] == ROWS
    assert told["rows_per_second"] > 0


def test_a_touched_input_is_the_same_and_a_shorter_one_is_refused(
    job: Path, model: Path, run_dir: Path
) -> None:
    call(*command(job, model))
    os.utime(job)  # touched, with the same rows in it
    ran = call(*command(job, model))
    assert (ran.code, ran.summary["kv_tokens"]) == (0, 0)
    job.write_text("".join(job.read_text().splitlines(keepends=True)[:-1]))
    refused = call(*command(job, model))
    assert refused.code == 2
    assert f"rows was {ROWS} and is {ROWS - 1}" in refused.sentence
    assert len(manifest(run_dir)["parts"]) == 1
