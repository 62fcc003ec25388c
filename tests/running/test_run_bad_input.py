"""An input that cannot be a job is refused in one sentence before the weights load: exit 2.

Every test here uses a model without weights.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from harness import Ran, call, files_in, read, write_lines, write_parquet

GOOD = [{"prompt": "The order number"}, {"prompt": "is on the first line"}]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "job.jsonl", GOOD)


def refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2, ran.err
    assert ran.out == ""
    for word in words:
        assert word in ran.sentence, ran.err


def run(job: Path, model: Path, *options: object) -> Ran:
    out = job.parent / "answers.jsonl"
    ran = call("run", job, "-m", model, "-o", out, *options)
    if ran.code == 2:
        left = files_in(job.parent) if job.parent.is_dir() else set()
        assert not any(name.startswith(("answers", ".")) for name in left), left
    return ran


def test_a_missing_file_is_named(tmp_path: Path, bare_model: Path) -> None:
    refused(run(tmp_path / "none.jsonl", bare_model), "none.jsonl does not exist")


def test_a_foreign_ending_is_named(tmp_path: Path, bare_model: Path) -> None:
    path = tmp_path / "job.csv"
    path.write_text("prompt\nhi\n")
    refused(run(path, bare_model), "job.csv", "must end in one of .parquet, .jsonl")


@pytest.mark.parametrize("name", ["job.jsonl", "job.parquet", "job.jsonl.gz", "blank.jsonl"])
@pytest.mark.parametrize("out", ["answers.jsonl", "answers.parquet"])
def test_an_empty_input_gives_an_empty_result(
    tmp_path: Path, bare_model: Path, name: str, out: str
) -> None:
    empty = {"job.jsonl.gz": gzip.compress(b""), "blank.jsonl": b"\n\n"}
    (tmp_path / name).write_bytes(empty.get(name, b""))
    ran = call("run", tmp_path / name, "-m", bare_model, "-o", tmp_path / out, "--json")
    assert ran.code == 0, ran.err
    assert ran.summary["rows"] == ran.summary["failed"] == ran.summary["steps"] == 0
    assert read(tmp_path / out) == []


def test_a_parquet_file_of_no_rows_gives_an_empty_result(tmp_path: Path, bare_model: Path) -> None:
    job = write_parquet(tmp_path / "full.parquet", GOOD)
    empty = tmp_path / "job.parquet"
    pq.write_table(pq.read_table(job).slice(0, 0), empty)
    out = tmp_path / "answers.parquet"
    assert call("run", empty, "-m", bare_model, "-o", out).code == 0
    assert pq.read_table(out).column_names[:3] == ["prompt", "output", "status"]
    assert read(out) == []


def test_no_parquet_despite_its_name(tmp_path: Path, bare_model: Path) -> None:
    path = tmp_path / "job.parquet"
    path.write_text('{"prompt": "hi"}\n')
    refused(run(path, bare_model), "job.parquet is not a readable Parquet file")


def test_no_prompt_column_names_the_columns_and_the_fix(tmp_path: Path, bare_model: Path) -> None:
    path = write_lines(tmp_path / "job.jsonl", [{"text": "hi", "label": 1}])
    refused(run(path, bare_model), "job.jsonl", "text, label", "--prompt-column", "--template")


def test_two_prompt_columns_need_a_choice(tmp_path: Path, bare_model: Path) -> None:
    path = write_lines(tmp_path / "job.jsonl", [{"prompt": "hi", "prompt_token_ids": [1]}])
    refused(run(path, bare_model), "prompt, prompt_token_ids", "--prompt-column")


def test_an_unknown_prompt_column_is_named(job: Path, bare_model: Path) -> None:
    refused(run(job, bare_model, "--prompt-column", "text"), "'text'", "columns are prompt")


def test_an_unknown_id_column_is_named(job: Path, bare_model: Path) -> None:
    refused(run(job, bare_model, "--id-column", "key"), "'key'", "--id-column", "prompt")


def test_a_request_id_on_two_rows_is_named(tmp_path: Path, bare_model: Path) -> None:
    rows = [{"request_id": name, "prompt": "hi"} for name in ("a", "b", "a")]
    path = write_lines(tmp_path / "job.jsonl", rows)
    refused(run(path, bare_model), "request_id 'a'", "row 0", "row 2", "--id-column")


def test_an_unknown_template_column_is_named(job: Path, bare_model: Path) -> None:
    refused(run(job, bare_model, "--template", "{{ text }}"), "text", "columns are prompt")


def test_a_wrong_template_is_named_by_line(job: Path, bare_model: Path) -> None:
    refused(run(job, bare_model, "--template", "one\n{{ prompt"), "template", "line 2")


def test_a_missing_template_file_is_named(job: Path, bare_model: Path) -> None:
    refused(run(job, bare_model, "--template", "@none.txt"), "none.txt")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--max-tokens", "0", ("max_tokens is 0", "1 or more")),
        ("--max-tokens", "-3", ("max_tokens is -3", "1 or more")),
        ("--max-tokens", "512", ("--max-tokens 512", "512 positions", "lower it")),
        ("--temperature", "-1", ("temperature is -1.0", "0 or more")),
        ("--temperature", "nan", ("temperature is nan", "0 or more")),
        ("--top-p", "0", ("top_p is 0.0", "above 0")),
        ("--top-p", "1.5", ("top_p is 1.5", "up to 1")),
        ("--min-p", "2", ("min_p is 2.0", "from 0 to 1")),
        ("--n", "0", ("n is 0", "1 or more")),
        ("--n", "2", ("n is 2 at temperature 0", "temperature above 0")),
        ("--kv-memory", "lots", ("--kv-memory 'lots'", "4GB")),
        ("--kv-memory", "1KB", ("--kv-memory of 1000 bytes", "give more")),
        ("--max-errors", "few", ("--max-errors 'few'", "10 or 5%")),
    ],
)
def test_an_option_out_of_range_is_named_with_the_range(
    job: Path, bare_model: Path, option: str, value: str, words: tuple[str, ...]
) -> None:
    refused(run(job, bare_model, option, value), *words)


@pytest.mark.parametrize(
    ("option", "value"), [("--max-tokens", "many"), ("--order", "best"), ("--limit", "0")]
)
def test_what_the_parser_refuses_is_wrong_usage_too(
    job: Path, bare_model: Path, option: str, value: str
) -> None:
    refused(run(job, bare_model, option, value), option, value)
