"""A run in a process of its own: whoever looks at its directory knows how it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batchpipe.background.log_lines import LogLines
from batchpipe.background.room import log_path, room_of
from batchpipe.background.watch import Ended, launch, look, stop
from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
from batchpipe.errors import ConfigError
from batchpipe.journal.folder import open_folder
from batchpipe.journal.lock import holder
from batchpipe.journal.summary_file import read_summary

ROWS = 40


@pytest.fixture
def job(tmp_path: Path) -> Path:
    from batchpipe.rows.json_text import to_json

    path = tmp_path / "job.jsonl"
    rows = [{"messages": messages(ticket.text)} for ticket in load_tickets()[:ROWS]]
    path.write_text("".join(f"{to_json(row)}\n" for row in rows))
    return path


@dataclass
class Runs:
    """Processes that answer one job, one after the other or at once."""

    job: Path
    run_dir: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *more: str, python: str = sys.executable) -> subprocess.Popen[bytes]:
        out = self.job.parent / "answers.parquet"
        words = ["run", str(self.job), "-m", str(MODEL_DIR), "-o", str(out), "--max-tokens", "8"]
        environment = {"OMP_NUM_THREADS": "1"}
        self.processes.append(launch(python, [*words, *more], self.run_dir, environment))
        return self.processes[-1]

    def end(self) -> Ended:
        while (ended := look(self.run_dir)) is None:
            time.sleep(0.05)
        return ended


@pytest.fixture
def runs(job: Path) -> Iterator[Runs]:
    """Whatever a failed test leaves running is killed."""
    started = Runs(job, f"{job.parent / 'answers.parquet'}.run")
    yield started
    for process in started.processes:
        process.kill()
        process.wait()


def test_the_end_is_known_to_who_was_not_the_parent(runs: Runs) -> None:
    before = LogLines(log_path(runs.run_dir))
    process = runs.start()
    assert look(runs.run_dir) is None
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    assert runs.end() == Ended(0, f"results: {runs.job.parent / 'answers.parquet'}")
    summary = read_summary(open_folder(runs.run_dir))
    assert summary is not None
    assert summary["succeeded"] == ROWS
    assert f"{ROWS} of {ROWS} rows answered" in before.new()
    assert before.new() == []


def test_wrong_usage_is_told_by_code_and_sentence(runs: Runs) -> None:
    os.remove(runs.job)
    runs.start()
    assert runs.end() == Ended(2, f"batchpipe: {runs.job} does not exist")


def test_a_directory_that_only_a_failed_process_used_takes_a_run(runs: Runs) -> None:
    runs.start("--max-errors", "many")
    assert runs.end().code == 2
    runs.start()
    assert runs.end().code == 0


def test_a_stopped_run_can_be_resumed(runs: Runs) -> None:
    runs.start()
    assert stop(runs.run_dir)
    ended = runs.end()
    assert ended.code == 75
    assert "SIGTERM" in ended.said
    assert not stop(runs.run_dir)
    runs.start()
    assert runs.end().code == 0


def test_a_killed_process_leaves_no_end(runs: Runs) -> None:
    process = runs.start()
    process.kill()
    assert runs.end().code is None


def test_an_earlier_end_is_not_taken_for_the_new_one(runs: Runs) -> None:
    runs.start("--max-errors", "many")
    assert runs.end().code == 2
    process = runs.start()
    process.kill()
    assert runs.end().code is None


def test_of_two_processes_one_runs(runs: Runs) -> None:
    first = runs.start()
    assert runs.start().wait() == 75
    who = holder(room_of(runs.run_dir))
    assert who is None or who.pid == first.pid
    assert runs.end().code == 0


@pytest.mark.parametrize("python", ["/nowhere/python", "empty"])
def test_an_interpreter_without_batchpipe_is_named(python: str, runs: Runs) -> None:
    if python == "empty":
        python = str(runs.job.parent / "python")
        Path(python).write_text(f'#!/bin/sh\nexec {sys.executable} -S -E -I "$@"\n')
        os.chmod(python, 0o755)
    with pytest.raises(ConfigError, match="batchpipe") as raised:
        runs.start(python=python)
    assert str(raised.value).startswith(f"{python} cannot ")


def test_lines_are_told_once_and_only_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = LogLines(str(path))
    assert lines.new() == []
    with path.open("wb", buffering=0) as stream:
        stream.write(b"one\ntw")
        assert lines.new() == ["one"]
        stream.write("o\nthree \N{EURO SIGN}\n".encode())
        assert lines.new() == ["two", "three \N{EURO SIGN}"]
    assert LogLines(str(path)).new() == []
    assert LogLines(str(path), 4).new() == ["two", "three \N{EURO SIGN}"]
