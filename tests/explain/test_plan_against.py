"""`plan --against`: only rows whose answer would be another are to be done again, and why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Row, call, read, write_lines

TEXTS = [f"The parcel {n} has come" for n in range(12)]
OPTIONS = ("--template", "{{ greeting }} {{ text }}", "--max-tokens", 5)


def rows_of(texts: list[str]) -> list[Row]:
    return [
        {"request_id": f"id-{n}", "greeting": "Dear Sir.", "text": text, "note": n}
        for n, text in enumerate(texts)
    ]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", rows_of(TEXTS))


@pytest.fixture
def run_dir(job: Path, model: Path) -> Path:
    out = job.parent / "answers.jsonl"
    ran = call("run", job, "-m", model, "-o", out, *OPTIONS)
    assert ran.code == 0, ran.err
    return Path(f"{out}.run")


def against(job: Path, model: Path, run_dir: Path, *options: object) -> dict[str, Any]:
    """The plan's JSON, whose own figures must be those of the rows to redo."""
    ran = call("plan", job, "-m", model, "--against", run_dir, "--json", *options)
    assert ran.code == 0, ran.err
    told = ran.summary
    assert told["runnable"] == told["change"]["redo"]
    return told


def redone(told: dict[str, Any]) -> list[int]:
    return [row for first, end in told["change"]["redo_ranges"] for row in range(first, end)]


def whys(told: dict[str, Any]) -> dict[str, int]:
    return {each["why"]: each["rows"] for each in told["change"]["reasons"]}


def test_an_unchanged_job_has_nothing_to_do(job: Path, model: Path, run_dir: Path) -> None:
    told = against(job, model, run_dir, *OPTIONS)
    change = told["change"]
    assert (change["valid"], change["redo"], change["gone"]) == (12, 0, 0)
    assert change["settings"] == []
    assert told["prompt_tokens"] == told["expected_answer_tokens"] == told["expected_seconds"] == 0


def test_a_changed_row_is_redone_alone(job: Path, model: Path, run_dir: Path) -> None:
    rows = rows_of(TEXTS)
    rows[3]["text"] = "Another text"
    rows[5]["note"] = "the prompt does not have it"
    write_lines(job, rows)
    told = against(job, model, run_dir, *OPTIONS)
    assert redone(told) == [3]
    assert whys(told) == {"the row's content changed, and its prompt with it": 1}
    assert told["change"]["valid"] == 11
    assert told["most_answer_tokens"] == 5


def test_a_changed_template_redoes_the_rows_whose_prompt_differs(
    job: Path, model: Path, run_dir: Path
) -> None:
    odd = "{{ greeting }} {{ text }}{% if note % 2 %}!{% endif %}"
    told = against(job, model, run_dir, "--template", odd, "--max-tokens", 5)
    assert redone(told) == [1, 3, 5, 7, 9, 11]
    assert whys(told) == {"the same content makes another prompt": 6}
    assert told["change"]["settings"][0].startswith("template was '{{ greeting }}")


def test_what_is_redone_is_what_has_another_answer_or_prompt(
    job: Path, model: Path, run_dir: Path
) -> None:
    """The oracle: the job as it is now, answered from scratch."""
    rows = rows_of([*TEXTS[:6], "new text", *TEXTS[7:]])
    write_lines(job, rows)
    told = against(job, model, run_dir, *OPTIONS)
    out = job.parent / "again.jsonl"
    assert call("run", job, "-m", model, "-o", out, *OPTIONS).code == 0
    before, now = read(job.parent / "answers.jsonl"), read(out)
    kept = set(range(12)) - set(redone(told))
    assert kept == set(range(12)) - {6}
    assert all(before[row]["output"] == now[row]["output"] for row in kept)


def test_a_changed_parameter_redoes_the_rows_that_it_reaches(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": text, "max_tokens": 3 if n < 4 else None} for n, text in enumerate(TEXTS)]
    job, out = write_lines(tmp_path / "job.jsonl", rows), tmp_path / "a.jsonl"
    assert call("run", job, "-m", model, "-o", out, "--max-tokens", 5).code == 0
    told = against(job, model, Path(f"{out}.run"), "--max-tokens", 6)
    assert redone(told) == list(range(4, 12))
    assert whys(told) == {"max_tokens was 5 and is 6": 8}


def test_another_seed_reaches_only_rows_that_draw_by_it(tmp_path: Path, model: Path) -> None:
    rows = [
        {"prompt": TEXTS[0]},
        {"prompt": TEXTS[1], "temperature": 1.0},
        {"prompt": TEXTS[2], "temperature": 1.0, "seed": 7},
    ]
    job, out = write_lines(tmp_path / "job.jsonl", rows), tmp_path / "a.jsonl"
    assert call("run", job, "-m", model, "-o", out, "--max-tokens", 3).code == 0
    told = against(job, model, Path(f"{out}.run"), "--max-tokens", 3, "--seed", 5)
    assert whys(told) == {"drawn at random, and the seed changed": 1}
    assert redone(told) == [1]


def test_another_model_redoes_all(job: Path, model: Path, run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    assert against(job, other, run_dir, *OPTIONS)["change"]["redo"] == 0  # the same elsewhere
    config = other / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_length": 77}))
    told = against(job, other, run_dir, *OPTIONS)
    assert redone(told) == list(range(12))
    assert whys(told) == {"model_files differ in generation_config.json": 12}
    told = against(job, model, run_dir, *OPTIONS, "--dtype", "bfloat16")
    assert whys(told) == {"dtype was 'float32' and is 'bfloat16'": 12}


def test_rows_that_came_went_or_moved_are_told_apart(job: Path, model: Path, run_dir: Path) -> None:
    rows = rows_of(TEXTS)
    new = {"request_id": "new", "greeting": "Dear Sir.", "text": "Quite new", "note": 0}
    again = {**rows[4], "request_id": "asks the same"}
    write_lines(job, [new, *rows[2:], again])
    told = against(job, model, run_dir, *OPTIONS)
    assert whys(told) == {"not in the run": 1}
    assert redone(told) == [0]
    assert (told["change"]["valid"], told["change"]["valid_elsewhere"]) == (10, 1)
    assert told["change"]["gone"] == 2


def test_rows_without_an_answer_are_to_be_done(tmp_path: Path, model: Path) -> None:
    rows: list[Row] = [{"prompt": "fine"}, {"prompt": "hot", "temperature": -1}, {"prompt": ""}]
    job, out = write_lines(tmp_path / "job.jsonl", rows), tmp_path / "a.jsonl"
    assert call("run", job, "-m", model, "-o", out, "--max-tokens", 3).code == 3
    rows[1]["temperature"] = 0
    write_lines(job, rows)
    told = against(job, model, Path(f"{out}.run"), "--max-tokens", 3)
    assert whys(told) == {"no answer in the run": 1}
    assert (told["change"]["cannot_run"], told["change"]["valid"]) == (1, 1)


def test_a_retrys_answers_are_held_to_the_retrys_parameters(
    job: Path, model: Path, run_dir: Path
) -> None:
    ended = [row["finish_reason"] for row in read(job.parent / "answers.jsonl")]
    assert "length" in ended
    retry = ("--finish-reason", "length", "--set", "max_tokens=9")
    assert call("retry", run_dir, *retry).code == 0
    assert against(job, model, run_dir, *OPTIONS)["change"]["redo"] == 0
    told = against(job, model, run_dir, *OPTIONS[:2], "--max-tokens", 9)
    assert told["change"]["redo"] == sum(each != "length" for each in ended)


def test_the_text_says_the_same(job: Path, model: Path, run_dir: Path) -> None:
    rows = rows_of(TEXTS)
    rows[3]["text"] = "Another text"
    write_lines(job, rows)
    ran = call("plan", job, "-m", model, "--against", run_dir, *OPTIONS)
    assert ran.code == 0, ran.err
    for words in (
        "12 of its 12 rows have an answer",
        "settings changed    none",
        "still valid         11 rows (91.7%)",
        "to do again         1 row: 3",
        "which costs",
        "1 row, the first 3: the row's content changed",
        "to run            1, 0 of them duplicates",
        "expected time",
    ):
        assert words in ran.out, ran.out


def damaged(run_dir: Path) -> None:
    (run_dir / "rows.parquet").write_bytes(b"PAR1")


def of_another_run(run_dir: Path) -> None:
    manifest = run_dir / "manifest.json"
    manifest.write_text(manifest.read_text().replace("answers", "srewsna"))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (damaged, "rows.parquet is missing or damaged"),
        (of_another_run, "is damaged: its checksum"),
        (shutil.rmtree, "holds no run: give the run directory"),
    ],
)
def test_what_cannot_be_compared_is_a_sentence(
    job: Path, bare_model: Path, run_dir: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(run_dir)
    ran = call("plan", job, "-m", bare_model, "--against", run_dir, *OPTIONS)
    assert ran.code == 2
    assert sentence in ran.sentence
