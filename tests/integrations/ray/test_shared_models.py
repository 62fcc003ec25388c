"""A worker whose model is divided among processes of its node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import call, ended, read, spawn, write_lines
from other_ranks import is_there, ranks_of

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
