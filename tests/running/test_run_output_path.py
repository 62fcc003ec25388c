"""OUT is looked at before anything else: nothing is computed that could not be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Ran, call, files_in, read, write_lines


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = [{"prompt": text} for text in ("The order", "The parcel", "Please")]
    return write_lines(tmp_path / "job.jsonl", rows)


def run(job: Path, model: Path, out: Path, *options: object) -> Ran:
    return call("run", job, "-m", model, "-o", out, "--max-tokens", 2, "--json", *options)


def test_a_missing_directory_is_named(job: Path, bare_model: Path) -> None:
    ran = run(job, bare_model, job.parent / "none" / "answers.jsonl")
    assert ran.code == 2
    assert f"the directory {job.parent / 'none'} does not exist; make it" in ran.sentence


@pytest.mark.parametrize("name", ["answers.csv", "answers", "answers.json"])
def test_an_unknown_ending_is_named_with_the_known_ones(
    job: Path, bare_model: Path, name: str
) -> None:
    ran = run(job, bare_model, job.parent / name)
    assert ran.code == 2
    assert f"{name}: its name must end in one of .parquet, .jsonl" in ran.sentence


def test_a_directory_that_takes_no_files_is_named(job: Path, bare_model: Path) -> None:
    ran = run(job, bare_model, Path("/proc/answers.jsonl"))
    assert ran.code == 2
    assert "cannot write /proc/answers.jsonl: no file can be made in /proc" in ran.sentence


def test_a_directory_as_out_is_named(job: Path, bare_model: Path) -> None:
    (job.parent / "answers.jsonl").mkdir()
    ran = run(job, bare_model, job.parent / "answers.jsonl")
    assert ran.code == 2
    assert "it is a directory; name a file" in ran.sentence


def test_the_input_as_out_is_refused_even_with_overwrite(job: Path, bare_model: Path) -> None:
    before = job.read_bytes()
    ran = run(job, bare_model, job, "--overwrite")
    assert ran.code == 2
    assert "it is the input" in ran.sentence
    assert job.read_bytes() == before


def test_a_file_of_somebody_else_is_refused_without_overwrite(job: Path, model: Path) -> None:
    out = job.parent / "answers.jsonl"
    out.write_text("precious\n")
    ran = run(job, model, out)
    assert ran.code == 2
    assert f"{out} exists: choose another name or give --overwrite" in ran.sentence
    assert out.read_text() == "precious\n"
    assert run(job, model, out, "--overwrite").code == 0
    assert len(read(out)) == 3


def test_another_runs_directory_is_no_leave_to_overwrite(job: Path, model: Path) -> None:
    run_dir = ("--run-dir", job.parent / "state")
    assert run(job, model, job.parent / "first.jsonl", *run_dir).code == 0
    other = job.parent / "precious.jsonl"
    other.write_text("precious\n")
    ran = run(job, model, other, *run_dir)
    assert ran.code == 2
    assert "precious.jsonl exists" in ran.sentence
    assert other.read_text() == "precious\n"


def test_a_finished_run_computes_nothing_and_says_the_same(
    job: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    first = run(job, model, out)
    content, written = out.read_bytes(), out.stat().st_mtime_ns
    again = run(job, model, out)
    assert again.code == first.code == 0
    assert again.summary == first.summary
    assert "this run is complete, nothing to do" in again.err
    assert (out.read_bytes(), out.stat().st_mtime_ns) == (content, written)


def test_a_finished_run_exits_as_it_did(tmp_path: Path, model: Path) -> None:
    job, out = tmp_path / "job.jsonl", tmp_path / "answers.jsonl"
    job.write_text('{"prompt": "hi"}\nnope\n')
    assert [run(job, model, out).code for _ in range(2)] == [3, 3]
    assert run(job, model, out, "--max-errors", 1).code == 0


def test_a_finished_run_writes_out_again_from_its_directory(job: Path, model: Path) -> None:
    out, run_dir = job.parent / "answers.jsonl", ("--run-dir", job.parent / "state")
    run(job, model, out, *run_dir)
    rows = read(out)
    out.unlink()
    ran = run(job, model, out, *run_dir)
    assert (ran.code, ran.summary["kv_tokens"]) == (0, 0)
    assert read(out) == rows
    as_parquet = job.parent / "answers.parquet"
    assert run(job, model, as_parquet, *run_dir).summary["kv_tokens"] == 0
    assert [row["output"] for row in read(as_parquet)] == [row["output"] for row in rows]
    again = run(job, model, as_parquet, *run_dir)  # which is this run's OUT now
    assert again.code == 0
    assert "nothing to do" in again.err


def test_token_ids_can_be_asked_for_afterwards(job: Path, model: Path) -> None:
    out = job.parent / "answers.jsonl"
    run(job, model, out)
    ran = run(job, model, out, "--with-token-ids")
    assert (ran.code, ran.summary["kv_tokens"]) == (0, 0)
    assert all(len(row["output_token_ids"]) == 2 for row in read(out))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--seed", "7", "seed was 0 and is 7"),
        ("--limit", "2", "limit was None and is 2"),
        ("--max-tokens", "4", "sampling was {'max_tokens': 2} and is {'max_tokens': 4}"),
    ],
)
def test_a_directory_of_another_run_is_refused_with_what_changed(
    job: Path, model: Path, option: str, value: str, words: str
) -> None:
    out = job.parent / "answers.jsonl"
    run(job, model, out)
    ran = run(job, model, out, option, value)
    assert ran.code == 2
    assert words in ran.sentence
    assert "--overwrite" in ran.sentence
    assert "--run-dir" in ran.sentence
    assert run(job, model, out, option, value, "--overwrite").code == 0


def test_other_rows_are_another_run(job: Path, model: Path) -> None:
    out = job.parent / "answers.jsonl"
    run(job, model, out)
    job.write_text(job.read_text().replace("Please", "Perhaps"))
    ran = run(job, model, out)
    assert ran.code == 2
    assert "input was" in ran.sentence


def test_how_a_run_is_computed_may_change(job: Path, model: Path) -> None:
    out = job.parent / "answers.jsonl"
    run(job, model, out)
    ran = run(job, model, out, "--order", "dfs", "--kv-memory", "1MB", "--step-tokens", 16)
    assert ran.code == 0
    assert "nothing to do" in ran.err


def test_a_folder_with_other_files_is_no_run_directory(job: Path, bare_model: Path) -> None:
    (job.parent / "docs").mkdir()
    (job.parent / "docs" / "letter.txt").write_text("dear")
    ran = run(job, bare_model, job.parent / "a.jsonl", "--run-dir", job.parent / "docs")
    assert ran.code == 2
    assert "docs is no run directory and not empty; choose another --run-dir" in ran.sentence


@pytest.mark.parametrize("name", ["a.jsonl", "job.jsonl", "/proc/run"])
def test_a_run_directory_that_cannot_be_is_named(job: Path, bare_model: Path, name: str) -> None:
    """It is OUT itself, a file, or nowhere to be made."""
    ran = run(job, bare_model, job.parent / "a.jsonl", "--run-dir", job.parent / name)
    assert ran.code == 2
    assert name in ran.sentence
    assert "choose another" in ran.sentence


@pytest.mark.parametrize("manifest", ['{"name": "my web page"}', "[]", "no json"])
def test_overwrite_discards_no_folder_of_somebody_else(
    job: Path, bare_model: Path, manifest: str
) -> None:
    folder = job.parent / "page"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    (folder / "index.html").write_text("hello")
    ran = run(job, bare_model, job.parent / "a.jsonl", "--run-dir", folder, "--overwrite")
    assert ran.code == 2
    assert "manifest.json" in ran.sentence
    assert files_in(folder) == {"manifest.json", "index.html"}


def test_overwrite_leaves_files_that_no_run_writes(job: Path, model: Path) -> None:
    out = job.parent / "answers.jsonl"
    run(job, model, out)
    note = job.parent / "answers.jsonl.run" / "note.txt"
    note.write_text("mine")
    assert run(job, model, out, "--overwrite", "--seed", 3).code == 0
    assert note.read_text() == "mine"


def test_a_run_that_never_began_stands_in_nobodys_way(
    job: Path, model: Path, bare_model: Path
) -> None:
    out = job.parent / "answers.jsonl"
    assert run(job, bare_model, out).code == 2  # it has no weights
    assert run(job, model, out).code == 0


def test_summary_and_manifest_are_json(job: Path, model: Path) -> None:
    ran = run(job, model, job.parent / "answers.jsonl")
    folder = Path(ran.summary["run_dir"])
    assert json.loads((folder / "summary.json").read_text()) == ran.summary
    assert json.loads((folder / "manifest.json").read_text())["schema_version"] == 4
