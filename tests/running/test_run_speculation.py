"""`--speculate` changes how long a run takes, and nothing that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import call, read, write_lines

from batchpipe.demo.prompt import MODEL_DIR


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few rows, whose long answers repeat themselves, greedy and sampled."""
    rows = [
        {"prompt": "Ticket: the kettle, the kettle. " * 5 + str(row), "temperature": row % 2 / 2}
        for row in range(4)
    ]
    return write_lines(tmp_path_factory.mktemp("job") / "job.jsonl", rows)


def arguments(job: Path, out: Path, *more: object) -> list[object]:
    limits = ["--max-tokens", 80, "--ignore-eos", "--dtype", "float32"]
    return ["run", job, "-m", MODEL_DIR, "-o", out, *limits, *more]


def test_answers_are_the_same_and_the_summary_tells_of_guesses(job: Path, tmp_path: Path) -> None:
    on, off = tmp_path / "on.jsonl", tmp_path / "off.jsonl"
    guessed = call(*arguments(job, on, "--json")).summary
    plain = call(*arguments(job, off, "--speculate", "off", "--json")).summary
    assert read(on) == read(off)
    assert 0 < guessed["accepted_tokens"] <= guessed["drafted_tokens"]
    assert (plain["drafted_tokens"], plain["accepted_tokens"]) == (0, 0)
    assert guessed["steps"] < plain["steps"]
    assert guessed["completion_tokens"] == plain["completion_tokens"]


def test_a_person_is_told_of_guesses_where_there_were_any(job: Path, tmp_path: Path) -> None:
    assert "tokens guessed ahead" in call(*arguments(job, tmp_path / "on.jsonl")).out
    plain = call(*arguments(job, tmp_path / "off.jsonl", "--speculate", "off"))
    assert "guessed" not in plain.out


def test_a_run_goes_on_with_guesses_or_without(job: Path, tmp_path: Path) -> None:
    straight, out = tmp_path / "straight.jsonl", tmp_path / "out.jsonl"
    assert call(*arguments(job, straight)).code == 0
    stopped = call(*arguments(job, out, "--step-tokens", 16, "--budget-hours", 1e-9))
    assert stopped.code == 75
    assert call(*arguments(job, out, "--speculate", "off")).code == 0
    assert read(out) == read(straight)


def test_another_way_to_speculate_is_refused(job: Path, tmp_path: Path) -> None:
    ran = call(*arguments(job, tmp_path / "out.jsonl", "--speculate", "always"))
    assert ran.code == 2
    assert "'always' is not one of 'auto', 'off'" in ran.err
