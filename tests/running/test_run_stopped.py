"""Ctrl-C and SIGTERM: what is finished is on disk, and the same command finishes the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Ran, Row, call, ended, files_in, read, spawn, write_lines

ROWS = 240
TOPICS = ("the parcel", "the refund", "the new box")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared prefixes, an error row and duplicates."""
    prompts = [f"Please tell them when {TOPICS[row % 3]} arrives, {row}" for row in range(ROWS)]
    prompts[5], prompts[ROWS - 1] = "", prompts[0]
    folder = tmp_path_factory.mktemp("jobs")
    return write_lines(folder / "job.jsonl", ({"prompt": text} for text in prompts))


def arguments(job: Path, model: Path, out: Path) -> list[object]:
    limits = ("--max-tokens", 12, "--step-tokens", 24, "--max-errors", 1)
    return ["run", job, "-m", model, "-o", out, "--json", *limits]


@pytest.fixture(scope="module")
def uninterrupted(jobs: Path, model: Path) -> tuple[Ran, list[Row]]:
    out = jobs.parent / "uninterrupted.jsonl"
    ran = call(*arguments(jobs, model, out))
    assert ran.code == 0
    return ran, read(out)


def stopped_mid_run(process: subprocess.Popen[str], run_dir: Path, by: signal.Signals) -> Ran:
    """The process, told to stop once its first answers are on disk (after the error row's part)."""
    while process.poll() is None and len(list(run_dir.glob("parts/*.parquet"))) < 3:
        time.sleep(0.005)
    process.send_signal(by)
    return ended(process)


def without_cache(rows: list[Row]) -> Iterator[Row]:
    """A prefix that both sessions need is computed in both, so that this count may differ."""
    return ({**row, "cached_tokens": None} for row in rows)


@pytest.mark.parametrize("by", CODES, ids=lambda by: by.name)
def test_a_stopped_run_goes_on_to_the_same_results(
    jobs: Path,
    model: Path,
    tmp_path: Path,
    uninterrupted: tuple[Ran, list[Row]],
    by: signal.Signals,
) -> None:
    out, run_dir = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.run"
    command = arguments(jobs, model, out)
    ran = stopped_mid_run(spawn(*command), run_dir, by)
    parts = {path.name: read(path) for path in (run_dir / "parts").iterdir()}
    finished = [row["ordinal"] for part in parts.values() for row in part]
    assert ran.code == CODES[by], ran.err
    assert ran.out == ""
    assert f"stopped by {by.name} with {len(finished)} of {ROWS} rows finished" in ran.sentence
    assert f"on disk in {run_dir}; the same command goes on from there" in ran.sentence
    assert len(set(finished)) == len(finished) < ROWS
    assert files_in(tmp_path) == {"answers.jsonl.run"}

    again = call(*command)
    whole, rows = uninterrupted
    assert again.code == 0, again.err
    assert list(without_cache(read(out))) == list(without_cache(rows))
    ordinals = [row["ordinal"] for part in sorted(run_dir.glob("parts/*")) for row in read(part)]
    assert sorted(ordinals) == list(range(ROWS))  # none computed twice
    assert all(read(run_dir / "parts" / name) == rows for name, rows in parts.items())
    assert again.summary["steps"] > 0  # of both sessions
    same = ("rows", "succeeded", "failed", "duplicates", "prompt_tokens", "completion_tokens")
    for name in (*same, "shareable_prompt_tokens"):
        assert again.summary[name] == whole.summary[name], name


@pytest.mark.parametrize("by", CODES, ids=lambda by: by.name)
def test_a_run_stopped_before_its_first_step_says_so(
    jobs: Path, model: Path, tmp_path: Path, by: signal.Signals
) -> None:
    pipe = tmp_path / "template"
    os.mkfifo(pipe)

    def stop() -> None:
        with pipe.open("w"):  # opens when the run does: from here on it waits for the template
            signal.pthread_kill(threading.main_thread().ident or 0, by)

    stopper = threading.Thread(target=stop)
    stopper.start()
    ran = call(*arguments(jobs, model, tmp_path / "answers.jsonl"), "--template", f"@{pipe}")
    stopper.join()
    assert ran.code == CODES[by], ran.err
    assert "the same command goes on from there" in ran.sentence
    assert files_in(tmp_path) == {"template"}
