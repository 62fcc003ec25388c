"""A budget of hours or money stops a run between two steps; the same command goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import call, read, write_lines

ROWS = 40


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = ({"prompt": f"Where is parcel {row}?"} for row in range(ROWS))
    return write_lines(tmp_path / "job.jsonl", rows)


def arguments(job: Path, model: Path, *more: object) -> list[object]:
    out = job.parent / "out.jsonl"
    return ["run", job, "-m", model, "-o", out, "--max-tokens", 4, "--step-tokens", 16, *more]


@pytest.mark.parametrize(
    "budget",
    [
        ("--budget-hours", 1e-9),
        ("--budget-cost", 1e-9, "--price-per-hour", 3.5),
        ("--budget-hours", 100, "--budget-cost", 1e-9, "--price-per-hour", 3.5),
    ],
    ids=["hours", "cost", "the-smaller-of-both"],
)
def test_a_spent_budget_stops_the_run_and_the_same_command_goes_on(
    job: Path, model: Path, budget: tuple[object, ...]
) -> None:
    stopped = call(*arguments(job, model, *budget))
    assert stopped.code == 75
    assert "stopped by the budget" in stopped.sentence
    assert "the same command goes on from there" in stopped.sentence
    assert not (job.parent / "out.jsonl").exists()
    assert call(*arguments(job, model)).code == 0
    assert [row["status"] for row in read(job.parent / "out.jsonl")] == ["success"] * ROWS


def test_an_ample_budget_changes_nothing(job: Path, model: Path) -> None:
    assert call(*arguments(job, model, "--budget-hours", 100)).code == 0


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (("--budget-hours", 0), "--budget-hours 0 is no budget"),
        (("--budget-hours", "nan"), "--budget-hours nan is no budget"),
        (("--budget-cost", -1, "--price-per-hour", 2), "--budget-cost -1 is no budget"),
        (("--budget-cost", 10), "--budget-cost needs --price-per-hour"),
        (("--price-per-hour", 0), "--price-per-hour 0 must be more than 0"),
    ],
)
def test_a_budget_that_is_none_is_refused_before_the_model_loads(
    job: Path, bare_model: Path, budget: tuple[object, ...], sentence: str
) -> None:
    ran = call(*arguments(job, bare_model, *budget))
    assert ran.code == 2
    assert sentence in ran.sentence
