"""A run on Ray workers: it answers what one process answers, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Ran, Row, call, ended, read, spawn, write_lines
from struck_runs import deadly_model, on, parts_of, wait_until, while_running

from batchpipe.journal import journal

ASKED = ("--max-tokens", "24", "--ignore-eos", "--kv-memory", "20MB")
TOLD = ("cached_tokens",)  # what was served by others' KV is not the same on several workers

Workers = Callable[[], list[int]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go to disk at once: so a test sees from outside that a run is under way."""
    monkeypatch.setattr(journal, "FLUSH_SECONDS", 0.0)


def arguments(job: Path, model: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("run", job, "-m", model, "-o", out, *ASKED, "--json", *more)


def answers(path: Path) -> list[Row]:
    return [{name: row[name] for name in row if name not in TOLD} for row in read(path)]


@pytest.fixture(scope="module")
def expected(job: Path, model: Path) -> list[Row]:
    """What one process answers."""
    out = job.with_name("alone.jsonl")
    assert call(*arguments(job, model, out)).code == 0
    return answers(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_workers_answer_what_one_process_answers(
    cluster: Any, model: Path, job: Path, out: Path, expected: list[Row]
) -> None:
    ran = call(*arguments(job, model, out, *on(cluster, 2)))
    assert ran.code == 0, ran.err
    assert answers(out) == expected
    summary = ran.summary
    assert [worker["worker"] for worker in summary["workers"]] == [0, 1]
    assert sum(worker["prompts"] for worker in summary["workers"]) >= 120 - summary["duplicates"]
    for worker in summary["workers"]:
        assert worker["prompts"] > 0
        assert worker["deaths"] == 0
        assert 0 <= worker["idle_share"] <= 1
    computed = sum(worker["computed_prompt_tokens"] for worker in summary["workers"])
    assert computed == summary["computed_prompt_tokens"]
    assert call(*arguments(job, model, out, *on(cluster, 2))).summary == summary
    assert call("report", f"{out}.run").code == 0
    page = Path(f"{out}.run/report.html").read_text()
    assert "<h2>Workers</h2>" in page


def test_a_killed_worker_loses_nothing(
    cluster: Any,
    model: Path,
    job: Path,
    out: Path,
    expected: list[Row],
    workers_of: Workers,
) -> None:

    def strike() -> None:
        os.kill(workers_of()[0], signal.SIGKILL)

    thread = while_running(out, strike)
    ran = call(*arguments(job, model, out, *on(cluster, 2)))
    thread.join()
    assert ran.code == 0, ran.err
    assert answers(out) == expected
    assert sum(worker["deaths"] for worker in ran.summary["workers"]) == 1


def test_a_run_goes_on_when_a_node_is_removed(
    cluster: Any, model: Path, job: Path, out: Path, expected: list[Row]
) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    thread = while_running(out, lambda: cluster.remove_node(node, allow_graceful=False))
    ran = call(*arguments(job, model, out, *on(cluster, 3)))
    thread.join()
    assert ran.code == 0, ran.err
    assert answers(out) == expected
    assert sum(worker["deaths"] for worker in ran.summary["workers"]) >= 1


def test_a_killed_driver_leaves_no_worker_and_the_same_command_goes_on(
    cluster: Any,
    model: Path,
    job: Path,
    out: Path,
    expected: list[Row],
    workers_of: Workers,
) -> None:
    command = arguments(job, model, out, *on(cluster, 2))
    process = spawn(*command)
    while_running(out, process.kill).join()
    assert ended(process).code == -signal.SIGKILL
    wait_until(lambda: not workers_of())
    ran = call(*command)
    assert ran.code == 0, ran.err
    assert answers(out) == expected


def test_a_stopped_run_ends_its_workers_and_goes_on(
    cluster: Any,
    model: Path,
    job: Path,
    out: Path,
    expected: list[Row],
    workers_of: Workers,
) -> None:
    command = arguments(job, model, out, *on(cluster, 2))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
        finished = len(parts_of(out))
        process = spawn(*command)
        while len(parts_of(out)) <= finished:
            time.sleep(0.02)
        process.send_signal(number)
        ran: Ran = ended(process)
        assert ran.code == code, ran.err
        assert "the same command goes on" in ran.sentence
        wait_until(lambda: not workers_of())
    assert call(*command).code == 0
    assert answers(out) == expected


def test_a_prompt_that_kills_every_worker_is_given_up(
    cluster: Any, model: Path, tmp_path: Path, out: Path
) -> None:
    folder = deadly_model(model, tmp_path / "model")
    prompts = [f"{letter * 30}{number}" for letter in "abcdefghij" for number in range(2)]
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": each} for each in [*prompts, "z" * 9]])
    ran = call(*arguments(job, folder, out, "--trust-remote-code", *on(cluster, 2)))
    assert ran.code == 3, ran.err
    rows = read(out)
    assert rows[-1]["status"] == "error"
    assert "3 workers died one after the other on this prompt" in rows[-1]["error"]
    assert "crashed or was killed" in rows[-1]["error"]
    assert sum(row["status"] == "error" for row in rows) <= 4
    assert sum(worker["deaths"] for worker in ran.summary["workers"]) == 3
