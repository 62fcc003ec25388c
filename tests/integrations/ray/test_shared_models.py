"""Workers whose models are divided among processes of their node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import call, ended, read, spawn, write_lines
from other_ranks import is_there, ranks_of
from struck_runs import on, wait_until, while_running

from batchpipe.workflow.journal import journal

Workers = Callable[[], list[int]]


def test_a_killed_rank_is_replaced_with_its_worker_and_leaves_nothing_behind(
    cluster: Any, model: Path, tmp_path: Path, workers_of: Workers
) -> None:
    # The first answer comes long before the last.
    rows = [{"prompt": f"Row {number}", "max_tokens": 8 + 40 * number} for number in range(11)]
    job = write_lines(tmp_path / "job.jsonl", rows)
    asked = ("--ignore-eos", "--kv-memory", "20MB", "--json")
    alone, out = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    assert call("run", job, "-m", model, "-o", alone, *asked).code == 0
    shared = ("--workers", 1, "--ray-address", cluster.address, "--tensor-parallel", 2)
    parts = Path(f"{out}.run") / "parts"
    struck: list[int] = []

    run = spawn("run", job, "-m", model, "-o", out, *asked, *shared)

    def strike() -> None:
        while not list(parts.glob("*")) and run.poll() is None:
            time.sleep(0.02)
        struck.extend(rank for worker in workers_of() for rank in ranks_of(worker))
        for rank in struck:
            os.kill(rank, signal.SIGKILL)

    thread = threading.Thread(target=strike, daemon=True)
    thread.start()
    ran = ended(run)
    thread.join()
    assert ran.code == 0, ran.err
    assert len(struck) == 1
    assert [row["output"] for row in read(out)] == [row["output"] for row in read(alone)]
    assert "rank 1 of 2" in ran.err
    [worker] = ran.summary["workers"]
    assert worker["deaths"] == 1
    while any(is_there(rank) for worker in workers_of() for rank in ranks_of(worker)):
        time.sleep(0.02)


def test_a_workflows_divided_models_are_replaced_with_their_worker(
    cluster: Any,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    workers_of: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)
    flow = tmp_path / "flow.yaml"
    flow.write_text(
        f"models:\n"
        f"  a: {{model: {tiny_model('llama')}, kv_memory: 20MB, tensor_parallel: 2}}\n"
        f"  b: {{model: {tiny_model('qwen3')}, kv_memory: 20MB}}\n"
        "steps:\n"
        '  first: {llm: a, template: "{{ title }} is", max_tokens: 60}\n'
        '  second: {llm: b, template: "{{ first.output }} and", max_tokens: 30}\n'
    )
    rows = [{"title": f"{'the parcel ' * 9}{number}"} for number in range(40)]
    inputs = write_lines(tmp_path / "in.jsonl", rows)
    alone, out = tmp_path / "alone.jsonl", tmp_path / "out.jsonl"
    command = ("run", inputs, "--workflow", flow, "--json", "--device", "cpu", "-o")
    assert call(*command, alone, "--tensor-parallel", 1).code == 0
    struck: list[int] = []

    def strike() -> None:
        struck.extend(rank for worker in workers_of() for rank in ranks_of(worker))
        for rank in struck:
            os.kill(rank, signal.SIGKILL)

    thread = while_running(out, strike)
    ran = call(*command, out, *on(cluster, 1))
    thread.join()
    assert ran.code == 0, ran.err
    assert read(out) == read(alone)
    assert len(struck) == 1
    assert "rank 1 of 2" in ran.err
    [worker] = ran.summary["workers"]
    assert worker["deaths"] == 1
    wait_until(lambda: not any(map(is_there, struck)) and not workers_of())
