"""Every form of input gives the same answers, and every form of output holds them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Ran, Row, call, read, write_lines, write_parquet
from oracle import greedy_reference, load_tokenizer

TEXTS = ["The customer writes that", "The customer writes again", "Question: which tickets?"]
ROWS: list[Row] = [{"prompt": text, "nr": nr} for nr, text in enumerate(TEXTS)]
RESULT_COLUMNS = [
    "output",
    "status",
    "finish_reason",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
]


def run(job: object, model: Path, out: Path, *options: object) -> Ran:
    ran = call("run", job, "-m", model, "-o", out, "--max-tokens", 4, "--json", *options)
    assert ran.code == 0, ran.err
    return ran


def token_ids(model: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = load_tokenizer(str(model))
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.fixture(scope="module")
def outputs(model: Path) -> list[str]:
    """What transformers' own generate answers to the three texts."""
    answers = greedy_reference(model, token_ids(model, TEXTS), 4)
    tokenizer = load_tokenizer(str(model))
    return [tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in answers]


def packed_lines(path: Path) -> Path:
    plain = write_lines(path.parent / "plain", ROWS).read_bytes()
    (path.parent / "plain").unlink()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(plain)
    return path


def make_input(folder: Path, name: str) -> str:
    folder.mkdir()
    if name in ("directory", "glob"):
        write_lines(folder / "a.jsonl", ROWS[:1])
        write_lines(folder / "b.jsonl", ROWS[1:])
        return str(folder) if name == "directory" else str(folder / "*.jsonl")
    if name == "job.parquet":
        return str(write_parquet(folder / name, ROWS))
    if name == "job.jsonl":
        return str(write_lines(folder / name, ROWS))
    return str(packed_lines(folder / name))


INPUTS = ["job.jsonl", "job.jsonl.gz", "job.jsonl.zst", "job.parquet", "directory", "glob"]


@pytest.mark.parametrize("name", INPUTS)
def test_every_form_of_input_is_answered_as_generate_does(
    tmp_path: Path, model: Path, outputs: list[str], name: str
) -> None:
    out = tmp_path / "answers.jsonl"
    run(make_input(tmp_path / "in", name), model, out)
    rows = read(out)
    assert [row["output"] for row in rows] == outputs
    assert [row["nr"] for row in rows] == [0, 1, 2]
    assert list(rows[0]) == ["prompt", "nr", *RESULT_COLUMNS]


OUTPUTS = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_ending_of_out_chooses_its_form(
    tmp_path: Path, model: Path, outputs: list[str], name: str
) -> None:
    job = write_parquet(tmp_path / "job.parquet", ROWS)
    run(job, model, tmp_path / name)
    rows = read(tmp_path / name)
    assert [row["output"] for row in rows] == outputs
    assert [row["prompt_tokens"] for row in rows] == list(map(len, token_ids(model, TEXTS)))


def test_parquet_results_have_the_documented_types(tmp_path: Path, model: Path) -> None:
    table = pa.table({"prompt": TEXTS, "day": pa.array([1, 2, None], pa.date32())})
    pq.write_table(table, tmp_path / "job.parquet")
    run(tmp_path / "job.parquet", model, tmp_path / "a.parquet", "--with-token-ids")
    answers = pq.read_table(tmp_path / "a.parquet")
    assert answers.select(["prompt", "day"]) == table
    assert answers.column_names == ["prompt", "day", *RESULT_COLUMNS, "output_token_ids"]
    types = {name: str(answers.schema.field(name).type) for name in answers.column_names}
    assert [types[name] for name in ("output", "status", "error")] == ["string"] * 3
    assert [types[name] for name in RESULT_COLUMNS[4:]] == ["int64"] * 3
    assert types["output_token_ids"].startswith("list<")


def answers_to(tmp_path: Path, model: Path, rows: list[Row], *options: object) -> list[Any]:
    job = write_lines(tmp_path / "job.jsonl", rows)
    run(job, model, tmp_path / "answers.jsonl", *options)
    return [row["output"] for row in read(tmp_path / "answers.jsonl")]


def test_token_ids_are_read_as_they_are(tmp_path: Path, model: Path, outputs: list[str]) -> None:
    rows = [{"prompt_token_ids": ids} for ids in token_ids(model, TEXTS)]
    assert answers_to(tmp_path, model, rows) == outputs


def test_messages_go_through_the_chat_template(tmp_path: Path, model: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    [of_chat] = answers_to(tmp_path, model, [{"messages": chat}])
    (tmp_path / "b").mkdir()
    [of_text] = answers_to(tmp_path / "b", model, [{"prompt": "user: hi\nassistant: "}])
    assert of_chat == of_text


def test_a_template_builds_the_prompt_from_columns(
    tmp_path: Path, model: Path, outputs: list[str]
) -> None:
    rows = [{"subject": text.split()[0], "rest": text.partition(" ")[2]} for text in TEXTS]
    template = ("--template", "{{ subject }} {{ rest }}")
    assert answers_to(tmp_path, model, rows, *template) == outputs


def test_a_template_may_come_from_a_file(tmp_path: Path, model: Path, outputs: list[str]) -> None:
    (tmp_path / "ask.txt").write_text("{{ text }}")
    rows = [{"text": text} for text in TEXTS]
    assert answers_to(tmp_path, model, rows, "--template", f"@{tmp_path / 'ask.txt'}") == outputs


def test_any_column_can_be_the_prompt(tmp_path: Path, model: Path, outputs: list[str]) -> None:
    rows = [{"text": text, "prompt": None} for text in TEXTS]
    assert answers_to(tmp_path, model, rows, "--prompt-column", "text") == outputs


def test_limit_answers_the_first_rows_only(tmp_path: Path, model: Path, outputs: list[str]) -> None:
    assert answers_to(tmp_path, model, ROWS, "--limit", 2) == outputs[:2]


def test_input_columns_of_result_names_are_kept(tmp_path: Path, model: Path) -> None:
    job = write_lines(tmp_path / "job.jsonl", [{"prompt": "hi", "output": "mine", "status": 3}])
    run(job, model, tmp_path / "answers.jsonl")
    [row] = read(tmp_path / "answers.jsonl")
    assert (row["input_output"], row["input_status"], row["status"]) == ("mine", 3, "success")


def test_results_can_be_asked_about_again(tmp_path: Path, model: Path) -> None:
    job = write_lines(tmp_path / "job.jsonl", ROWS)
    run(job, model, tmp_path / "first.parquet")
    run(tmp_path / "first.parquet", model, tmp_path / "second.parquet")
    assert pq.read_table(tmp_path / "second.parquet").num_rows == 3
