"""What a run says of itself: one JSON on stdout, everything else on stderr."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from harness import Ran, Row, call, read, write_lines

FIXED_NAMES = {
    "rows",
    "succeeded",
    "failed",
    "duplicates",
    "prompt_tokens",
    "computed_prompt_tokens",
    "reused_prompt_tokens",
    "shareable_prompt_tokens",
    "completion_tokens",
    "steps",
    "peak_kv_tokens",
    "preemptions",
    "plan_seconds",
    "load_seconds",
    "run_seconds",
    "output",
    "run_dir",
}

SHARED = "Read the letter of the customer and say whether it is urgent. "


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels of shared prefixes and a duplicate."""
    folder = tmp_path_factory.mktemp("job")
    rows = [{"prompt": f"{SHARED}Letter of {row % 4}: the box {row}"} for row in range(40)]
    return write_lines(folder / "job.jsonl", [*rows, rows[7]])


def run(job: Path, model: Path, out: Path, *options: object, err: io.StringIO | None = None) -> Ran:
    ran = call("run", job, "-m", model, "-o", out, "--max-tokens", 4, *options, err=err)
    assert ran.code == 0, ran.err
    return ran


def test_the_summary_has_the_fixed_names_and_adds_up(
    job: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    ran = run(job, model, out, "--json")
    summary, rows = ran.summary, read(out)
    assert summary.keys() >= FIXED_NAMES
    assert (summary["rows"], summary["succeeded"], summary["failed"]) == (41, 41, 0)
    assert summary["duplicates"] == 1
    assert summary["output"] == str(out)
    assert summary["run_dir"] == f"{out}.run"

    def total(name: str) -> int:
        return sum(row[name] for row in rows)

    assert summary["prompt_tokens"] == total("prompt_tokens")
    assert summary["completion_tokens"] == total("completion_tokens")
    assert summary["reused_prompt_tokens"] == total("cached_tokens")
    prompt, computed = summary["prompt_tokens"], summary["computed_prompt_tokens"]
    assert summary["reused_prompt_tokens"] == prompt - computed


def test_with_ample_memory_all_that_is_shareable_is_reused(
    job: Path, model: Path, tmp_path: Path
) -> None:
    summary = run(job, model, tmp_path / "answers.jsonl", "--json").summary
    missed = summary["shareable_prompt_tokens"] - summary["reused_prompt_tokens"]
    assert 0 <= missed <= summary["rows"]
    assert summary["shareable_prompt_tokens"] > 0.5 * summary["prompt_tokens"]
    assert summary["preemptions"] == 0


def test_little_memory_changes_no_answer(job: Path, model: Path, tmp_path: Path) -> None:
    def outputs(name: str, *options: object) -> list[str]:
        run(job, model, tmp_path / name, *options)
        return [row["output"] for row in read(tmp_path / name)]

    ample = outputs("ample.jsonl")
    assert outputs("little.jsonl", "--kv-memory", "96KB", "--step-tokens", 16) == ample
    assert outputs("input.jsonl", "--order", "input") == ample


def test_only_the_summary_is_on_stdout(job: Path, model: Path, tmp_path: Path) -> None:
    ran = run(job, model, tmp_path / "answers.jsonl")
    assert ran.out.startswith("41 of 41 rows answered, 1 of them duplicates\n")
    assert ran.out.rstrip().endswith(f"results: {tmp_path / 'answers.jsonl'}")


def test_progress_is_whole_lines_where_stderr_is_no_terminal(
    job: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchpipe.running.progress.LINE_SECONDS", 0.0)
    ran = run(job, model, tmp_path / "answers.jsonl", "--step-tokens", 16)
    lines = [line for line in ran.err.splitlines() if "rows," in line]
    assert len(lines) > 2
    assert all("tok/s" in line and "reused" in line and "left" in line for line in lines)
    assert lines[-1].startswith("41/41 rows")
    assert "\r" not in ran.err


def test_even_a_short_run_leaves_a_line(job: Path, model: Path, tmp_path: Path) -> None:
    ran = run(job, model, tmp_path / "answers.jsonl")
    assert ran.err.splitlines()[-1].startswith("41/41 rows, ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(job: Path, model: Path, tmp_path: Path) -> None:
    ran = run(job, model, tmp_path / "answers.jsonl", err=Terminal())
    bar = ran.err.rpartition("\r")[2]
    assert "41/41" in bar
    assert "tok/s" in bar
    assert "reused" in bar


def test_error_rows_stand_in_the_summary(tmp_path: Path, model: Path) -> None:
    rows: list[Row] = [{"prompt": "hi"}, {"prompt": ""}]
    out = tmp_path / "a.jsonl"
    ran = call("run", write_lines(tmp_path / "job.jsonl", rows), "-m", model, "-o", out)
    assert ran.code == 3
    assert ran.out.startswith("1 of 2 rows answered, 1 failed\n")
