"""A full disk ends a run with one sentence; with room again the same command goes on."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from harness import Ran, call, files_in, files_of_at_most, read, write_lines


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Rows that carry more bytes through than their answers have."""
    rows = [{"prompt": f"Ticket {row}: the box was open", "letter": "x" * 4000} for row in range(9)]
    return write_lines(tmp_path / "job.jsonl", rows)


def run(job: Path, model: Path, out: str, *more: object) -> Ran:
    command = ("run", job, "-m", model, "-o", job.parent / out, "--max-tokens", 2, "--json")
    return call(*command, *more)


def must_say(ran: Ran, where: str) -> None:
    assert ran.code == 75, ran.err
    assert ran.out == ""
    assert where in ran.sentence
    assert "File too large; free some space" in ran.sentence
    assert "the same command goes on from there" in ran.sentence


@pytest.mark.parametrize("out", ["answers.jsonl", "answers.parquet"])
def test_a_disk_full_while_out_is_written(tmp_path: Path, model: Path, out: str) -> None:
    draw = random.Random(1)
    rows = [{"prompt": f"Ticket {row}", "letter": draw.randbytes(2000).hex()} for row in range(18)]
    job = write_lines(tmp_path / "job.jsonl", rows)
    with files_of_at_most(20_000):
        must_say(run(job, model, out), out)
    assert files_in(tmp_path) - {"model"} == {"job.jsonl", f"{out}.run"}
    ran = run(job, model, out)
    assert (ran.code, ran.summary["kv_tokens"], ran.summary["succeeded"]) == (0, 0, 18)
    assert len(read(tmp_path / out)) == 18


def test_an_older_out_outlives_a_full_disk(job: Path, model: Path) -> None:
    out = job.parent / "answers.jsonl"
    out.write_text("old\n")
    with files_of_at_most(20_000):
        arguments = ("run", job, "-m", model, "-o", out, "--max-tokens", 2, "--overwrite")
        must_say(call(*arguments), "answers.jsonl")
    assert out.read_text() == "old\n"


def test_a_disk_full_while_a_part_is_written(job: Path, model: Path) -> None:
    """A part of long answers has more bytes than the manifest that comes before it."""
    with files_of_at_most(5_000):
        ran = run(job, model, "answers.jsonl", "--with-token-ids", "--max-tokens", 200)
        must_say(ran, "answers.jsonl.run/parts/000000.parquet")
    assert files_in(job.parent) == {"job.jsonl", "answers.jsonl.run"}
    assert files_in(job.parent / "answers.jsonl.run" / "parts") == set()
    ran = run(job, model, "answers.jsonl", "--with-token-ids", "--max-tokens", 200)
    assert (ran.code, ran.summary["succeeded"]) == (0, 9)


def test_a_disk_full_at_the_very_start(job: Path, model: Path) -> None:
    with files_of_at_most(100):
        must_say(run(job, model, "answers.jsonl"), "answers.jsonl.run/manifest.json")
    assert run(job, model, "answers.jsonl").code == 0


def test_a_failure_that_room_does_not_cure_exits_1(job: Path, model: Path) -> None:
    """Something else took the place of OUT while the run was under way."""

    class Meddler(io.StringIO):
        def write(self, text: str) -> int:
            if "rows," in text:  # the last line of the progress
                (job.parent / "answers.jsonl").mkdir(exist_ok=True)
            return super().write(text)

    arguments = ("run", job, "-m", model, "-o", job.parent / "answers.jsonl", "--max-tokens", 2)
    ran = call(*arguments, err=Meddler())
    assert ran.code == 1, ran.err
    assert ran.sentence == f"batchpipe: {job.parent / 'answers.jsonl'}: Is a directory"
