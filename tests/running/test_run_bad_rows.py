"""A bad row is one error row in its place; the rest runs, and the exit code counts the bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import Ran, Row, call, read, write_lines
from oracle import load_tokenizer

PROMPT = "The customer writes"


def run(job: Path, model: Path, *options: object) -> tuple[Ran, list[Row]]:
    out = job.parent / "answers.jsonl"
    ran = call("run", job, "-m", model, "-o", out, "--max-tokens", 3, "--json", *options)
    return ran, read(out)


def run_rows(tmp_path: Path, model: Path, rows: list[Row], *options: object) -> Any:
    return run(write_lines(tmp_path / "job.jsonl", rows), model, *options)


@pytest.fixture
def job_with_a_bad_line(tmp_path: Path) -> Path:
    job = tmp_path / "job.jsonl"
    job.write_text(f'{{"prompt": "{PROMPT}"}}\n{{"prompt": nope}}\n{{"prompt": "{PROMPT} it"}}\n')
    return job


def test_a_line_that_is_no_json_is_an_error_row(job_with_a_bad_line: Path, model: Path) -> None:
    ran, rows = run(job_with_a_bad_line, model)
    assert ran.code == 3
    assert [row["status"] for row in rows] == ["success", "error", "success"]
    assert rows[1]["error"].startswith("job.jsonl line 2 column 12: not JSON")
    assert rows[1]["output"] is None
    assert rows[1]["finish_reason"] is None
    assert (ran.summary["succeeded"], ran.summary["failed"]) == (2, 1)


@pytest.mark.parametrize(("allowed", "code"), [("0", 75), ("1", 0), ("50%", 0), ("20%", 75)])
def test_so_many_error_rows_are_tolerated(
    job_with_a_bad_line: Path, model: Path, allowed: str, code: int
) -> None:
    """With more of them the run stops, before it loads the model where they are known by then."""
    out = job_with_a_bad_line.parent / "answers.jsonl"
    limits = ("--max-tokens", 3, "--max-errors", allowed)
    ran = call("run", job_with_a_bad_line, "-m", model, "-o", out, *limits)
    assert ran.code == code
    assert out.exists() == (code == 0)


def test_only_bad_rows_need_no_weights(tmp_path: Path, bare_model: Path) -> None:
    job = tmp_path / "job.jsonl"
    job.write_text("nope\n[1]\n")
    ran, rows = run(job, bare_model)
    assert ran.code == 3
    assert "job.jsonl line 1 column 1: not JSON" in rows[0]["error"]
    assert "job.jsonl line 2: an array, not an object" in rows[1]["error"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prompt": None}, "prompt is null"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": 7}, "prompt is 7, not a text"),
        ({"prompt": ["a"]}, "prompt is ['a'], not a text"),
        ({}, "prompt is null"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens is 0; it must be a whole number of 1"),
        ({"prompt": PROMPT, "max_tokens": -1}, "max_tokens is -1"),
        (
            {"prompt": PROMPT, "max_tokens": 512},
            "max_tokens is 512, and the model's context of 512",
        ),
        ({"prompt": PROMPT, "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt": PROMPT, "temperature": -0.5}, "temperature is -0.5; it must be a number of 0"),
        ({"prompt": PROMPT, "temperature": "hot"}, "temperature is 'hot'"),
        ({"prompt": PROMPT, "top_p": 0}, "top_p is 0; it must be a number above 0 and up to 1"),
        ({"prompt": PROMPT, "n": 3}, "n is 3 at temperature 0"),
        ({"prompt": "long " * 400}, "tokens and the model's context is 512, answer included"),
    ],
)
def test_a_row_that_cannot_run_says_why(tmp_path: Path, model: Path, bad: Row, words: str) -> None:
    ran, rows = run_rows(tmp_path, model, [{"prompt": PROMPT}, bad, {"prompt": PROMPT + " it"}])
    assert ran.code == 3
    assert [row["status"] for row in rows] == ["success", "error", "success"]
    assert words in rows[1]["error"]
    assert (rows[1]["prompt_tokens"], rows[1]["completion_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([], "prompt_token_ids is empty"),
        ([1, -2], "prompt_token_ids[1] is -2"),
        ([1, 384], "token id 384 is not below the model's vocabulary size 384"),
    ],
)
def test_token_ids_that_the_model_does_not_have_are_an_error_row(
    tmp_path: Path, model: Path, bad: list[int], words: str
) -> None:
    _, rows = run_rows(tmp_path, model, [{"prompt_token_ids": ids} for ids in ([5, 6], bad)])
    assert [row["status"] for row in rows] == ["success", "error"]
    assert words in rows[1]["error"]


def test_messages_that_the_chat_template_refuses_are_an_error_row(
    tmp_path: Path, model: Path
) -> None:
    good, bad = [{"role": "user", "content": "hi"}], [{"role": "user"}]
    _, rows = run_rows(tmp_path, model, [{"messages": good}, {"messages": bad}])
    assert [row["status"] for row in rows] == ["success", "error"]
    assert "messages[0] has the content None" in rows[1]["error"]


def test_bytes_that_are_no_utf8_are_an_error_row(tmp_path: Path, model: Path) -> None:
    job = tmp_path / "job.jsonl"
    job.write_bytes(b'{"prompt": "fine"}\n{"prompt": "caf\xe9"}\n')
    ran, rows = run(job, model)
    assert ran.code == 3
    assert rows[0]["status"] == "success"
    assert rows[1]["error"] == "job.jsonl line 2 byte 16: not UTF-8 (byte 0xe9)"


def test_parquet_text_that_is_no_utf8_is_an_error_row(tmp_path: Path, model: Path) -> None:
    bad = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": bad}), tmp_path / "job.parquet")
    ran, rows = run(tmp_path / "job.parquet", model)
    assert ran.code == 3
    assert rows[0]["status"] == "success"
    assert rows[1]["error"].startswith("job.parquet row 1: column 'prompt' is not UTF-8")


def test_a_null_in_a_template_is_an_error_row(tmp_path: Path, model: Path) -> None:
    template = ("--template", "Answer: {{ text }}")
    ran, rows = run_rows(tmp_path, model, [{"text": "a"}, {"text": None}, {"other": 1}], *template)
    assert ran.code == 3
    assert [row["status"] for row in rows] == ["success", "error", "error"]
    assert "null in this row: text" in rows[1]["error"]
    assert "'text' is undefined" in rows[2]["error"]


LONG = [{"prompt": PROMPT}, {"prompt": "The parcel is late. " * 200}]


def test_a_prompt_longer_than_the_context_is_an_error_row(tmp_path: Path, model: Path) -> None:
    ran, rows = run_rows(tmp_path, model, LONG)
    assert ran.code == 3
    assert "shorten it, or use --on-too-long truncate-left" in rows[1]["error"]
    assert rows[0]["status"] == "success"


def test_a_prompt_too_long_is_known_before_the_weights_load(
    tmp_path: Path, bare_model: Path
) -> None:
    job = write_lines(tmp_path / "job.jsonl", LONG)
    out = tmp_path / "answers.jsonl"
    assert call("run", job, "-m", bare_model, "-o", out).code == 2  # no weights
    [part] = (tmp_path / "answers.jsonl.run" / "parts").iterdir()
    [row] = read(part)
    assert (row["ordinal"], row["status"]) == (1, "error")


def test_a_skipped_row_is_no_failure(tmp_path: Path, model: Path) -> None:
    ran, rows = run_rows(tmp_path, model, LONG, "--on-too-long", "skip")
    assert ran.code == 0
    assert (ran.summary["failed"], ran.summary["skipped"]) == (0, 1)
    assert rows[1]["output"] is None
    assert "the model's context is 512" in rows[1]["error"]


def test_a_truncated_prompt_keeps_its_end_and_answers(tmp_path: Path, model: Path) -> None:
    cut = ("--on-too-long", "truncate-left", "--with-token-ids")
    ran, rows = run_rows(tmp_path, model, LONG, *cut)
    assert ran.code == 0
    assert rows[1]["status"] == "success"
    assert rows[1]["prompt_tokens"] == 512 - 3
    ids = load_tokenizer(str(model))(LONG[1]["prompt"])["input_ids"][-509:]
    (tmp_path / "same").mkdir()
    _, same = run_rows(tmp_path / "same", model, [{"prompt_token_ids": ids}], *cut)
    assert rows[1]["output_token_ids"] == same[0]["output_token_ids"]


def test_an_answer_ends_where_the_context_does(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt_token_ids": [7] * 510, "max_tokens": 100, "ignore_eos": True}]
    _, [row] = run_rows(tmp_path, model, rows)
    assert (row["completion_tokens"], row["finish_reason"]) == (2, "length")


def test_a_row_too_large_for_the_kv_memory_is_an_error_row(tmp_path: Path, model: Path) -> None:
    jobs = [{"prompt": PROMPT}, {"prompt": PROMPT * 30}]  # 64 KB hold 125 tokens
    ran, rows = run_rows(tmp_path, model, jobs, "--kv-memory", "64KB")
    assert ran.code == 3
    assert [row["status"] for row in rows] == ["success", "error"]
    assert "--kv-memory holds" in rows[1]["error"]
    assert "give --kv-memory 106.5KB or lower max_tokens" in rows[1]["error"]


def test_bad_rows_keep_all_their_columns(tmp_path: Path, model: Path) -> None:
    _, rows = run_rows(tmp_path, model, [{"prompt": "", "label": "x", "seen": [1]}])
    assert {name: rows[0][name] for name in ("prompt", "label", "seen")} == {
        "prompt": "",
        "label": "x",
        "seen": [1],
    }
    assert json.dumps(rows[0])
