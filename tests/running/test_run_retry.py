"""`batchpipe retry`: the chosen rows are asked once more, all others stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Ran, Row, call, read, write_lines


@pytest.fixture
def finished(tmp_path: Path, model: Path) -> tuple[Path, Path, list[Row]]:
    """OUT, its run directory and its rows: answers of 3 tokens, one row that is bad."""
    rows = [{"prompt": f"Please tell them, {row}", "n_th": row} for row in range(12)]
    rows[4]["prompt"] = ""
    job = write_lines(tmp_path / "job.jsonl", rows)
    out = tmp_path / "answers.jsonl"
    ran = call("run", job, "-m", model, "-o", out, "--max-tokens", 3, "--json")
    assert ran.code == 3, ran.err
    return out, tmp_path / "answers.jsonl.run", read(out)


def retry(run_dir: Path, *more: object) -> Ran:
    return call("retry", run_dir, "--json", *more)


def test_cut_rows_get_longer_answers_and_the_others_stay(
    finished: tuple[Path, Path, list[Row]],
) -> None:
    out, run_dir, before = finished
    ran = retry(run_dir, "--finish-reason", "length", "--set", "max_tokens=9")
    assert ran.code == 3, ran.err
    after = read(out)
    for old, new in zip(before, after, strict=True):
        if old["finish_reason"] == "length":
            assert new["completion_tokens"] > 3
            assert new["output"].startswith(old["output"].rstrip("\N{REPLACEMENT CHARACTER}"))
        else:
            assert new == old
    assert ran.summary["repairs"] == 1
    assert ran.summary["rows"] == 12


def test_a_retry_equals_a_run_that_asked_so_at_once(
    finished: tuple[Path, Path, list[Row]], model: Path, tmp_path: Path
) -> None:
    out, run_dir, _ = finished
    retry(run_dir, "--finish-reason", "length", "--set", "max_tokens=9")
    at_once = tmp_path / "at-once.jsonl"
    call("run", tmp_path / "job.jsonl", "-m", model, "-o", at_once, "--max-tokens", 9)
    shown = ("prompt", "output", "status", "finish_reason", "error", "completion_tokens")
    assert [[row[name] for name in shown] for row in read(out)] == [
        [row[name] for name in shown] for row in read(at_once)
    ]


def test_the_run_command_afterwards_has_nothing_to_do(
    finished: tuple[Path, Path, list[Row]], model: Path, tmp_path: Path
) -> None:
    out, run_dir, _ = finished
    ran = retry(run_dir, "--finish-reason", "length", "--set", "max_tokens=9")
    content = out.read_bytes()
    again = call("run", tmp_path / "job.jsonl", "-m", model, "-o", out, "--max-tokens", 3, "--json")
    assert "nothing to do" in again.err
    assert again.summary == ran.summary
    assert out.read_bytes() == content


def test_a_failed_attempt_keeps_the_answer(
    finished: tuple[Path, Path, list[Row]],
) -> None:
    """The context of 512 tokens has no room for such an answer."""
    out, run_dir, before = finished
    ran = retry(run_dir, "--finish-reason", "length", "--set", "max_tokens=4096")
    assert ran.code == 3, ran.err
    assert read(out) == before


def test_rows_that_nothing_is_asked_of_again(finished: tuple[Path, Path, list[Row]]) -> None:
    out, run_dir, before = finished
    ran = retry(run_dir, "--status", "invalid_output")
    assert "0 rows of 12 are asked once more" in ran.err
    assert ran.code == 3
    assert ran.summary["repairs"] == 0
    assert read(out) == before


def test_bad_rows_stay_bad_and_good_ones_are_not_computed(
    finished: tuple[Path, Path, list[Row]],
) -> None:
    out, run_dir, before = finished
    ran = retry(run_dir, "--status", "error,invalid_output")
    assert "1 rows of 12 are asked once more" in ran.err
    assert (ran.code, ran.summary["kv_tokens"]) == (3, 0)
    assert read(out) == before


def test_a_retry_works_from_any_directory(
    finished: tuple[Path, Path, list[Row]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out, run_dir, _ = finished
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = retry(Path("..") / run_dir.name, "--finish-reason", "length", "--set", "max_tokens=9")
    assert ran.code == 3, ran.err
    assert max(row["completion_tokens"] for row in read(out)) > 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --status or --finish-reason, or both"),
        (("--status", "broken"), "--status broken is none of success, error, invalid_output"),
        (("--finish-reason", "eos"), "--finish-reason eos is none of stop, length"),
        (("--status", "error", "--set", "max_tokens"), "--set max_tokens is no setting"),
        (("--status", "error", "--set", "max_tokens=none"), "max_tokens is 'none'"),
        (("--status", "error", "--set", "speed=9"), "speed is no sampling parameter"),
        (("--status", "error", "--max-errors", "some"), "--max-errors 'some' is neither"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    finished: tuple[Path, Path, list[Row]], arguments: tuple[str, ...], words: str
) -> None:
    out, run_dir, before = finished
    manifest = (run_dir / "manifest.json").read_bytes()
    ran = retry(run_dir, *arguments)
    assert ran.code == 2
    assert words in ran.sentence
    assert (run_dir / "manifest.json").read_bytes() == manifest
    assert read(out) == before


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    ran = retry(tmp_path, "--status", "error")
    assert ran.code == 2
    assert f"{tmp_path} holds no run" in ran.sentence


def test_an_input_that_changed_is_refused(
    finished: tuple[Path, Path, list[Row]], tmp_path: Path
) -> None:
    _, run_dir, _ = finished
    job = tmp_path / "job.jsonl"
    job.write_text(job.read_text().replace("Please", "Kindly"))
    ran = retry(run_dir, "--finish-reason", "length", "--set", "max_tokens=9")
    assert ran.code == 2
    assert "input was" in ran.sentence
    assert json.loads((run_dir / "summary.json").read_text())["repairs"] == 0
