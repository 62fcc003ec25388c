"""A run learns how long answers are: its pilot's answers are kept, and the next run knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Row, call, read, write_lines

from batchpipe.job.history import load_history

ROWS = 300
STEM = "Please tell the customer in one short sentence and in plain words when the parcel that "
STEM += "was sent from our house in the north will arrive at the door of parcel number "


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = ({"prompt": f"{STEM}{row}"} for row in range(ROWS))
    return write_lines(tmp_path_factory.mktemp("jobs") / "job.jsonl", rows)


def run(job: Path, model: Path, out: Path, *more: object) -> list[Row]:
    limits = ("--max-tokens", 12, "--step-tokens", 64, "--with-token-ids")
    assert call("run", job, "-m", model, "-o", out, *limits, *more).code == 0
    return read(out)


@pytest.fixture
def ending_model(
    job: Path, model: Path, tmp_path: Path, model_that_says: Callable[..., Path]
) -> Path:
    """A model some of whose answers end of themselves: on a token that it often says."""
    said = [row["output_token_ids"] for row in run(job, model, tmp_path / "free.jsonl")]
    later = [token for answer in said for token in answer[2:]]
    return model_that_says(eos_token_id=max(set(later), key=later.count))


def test_learnt_lengths_change_the_order_and_not_the_answers(
    job: Path, ending_model: Path, tmp_path: Path
) -> None:
    planned = run(job, ending_model, tmp_path / "planned.jsonl")
    as_they_come = run(job, ending_model, tmp_path / "input.jsonl", "--order", "input")
    assert [row["output"] for row in planned] == [row["output"] for row in as_they_come]


def test_lengths_of_answers_that_ended_are_kept_for_the_next_run(
    job: Path, ending_model: Path, tmp_path: Path
) -> None:
    results = run(job, ending_model, tmp_path / "out.jsonl")
    ended = sorted(r["completion_tokens"] for r in results if r["finish_reason"] == "stop")
    assert ended, "no answer ended of itself"
    kept = load_history(str(ending_model), None)
    assert sorted(length for lengths in kept.values() for length in lengths) == ended
    plan = call("plan", job, "-m", ending_model, "--max-tokens", 12, "--json").summary
    assert json.dumps(plan)  # the next plan reads them


def test_lengths_are_kept_for_each_template(job: Path, ending_model: Path, tmp_path: Path) -> None:
    template = "{{ prompt }} again"
    run(job, ending_model, tmp_path / "out.jsonl", "--template", template)
    assert load_history(str(ending_model), template)
    assert not load_history(str(ending_model), "another {{ prompt }}")
