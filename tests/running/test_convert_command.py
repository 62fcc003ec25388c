"""`convert` as a user calls it: what it writes runs, and what a run writes it reads."""

from __future__ import annotations

from pathlib import Path

from batch_lines import chat
from harness import call, read, write_lines


def test_a_batch_for_another_api_is_answered_here_and_read_as_a_table(
    tmp_path: Path, model: Path
) -> None:
    messages = [{"role": "user", "content": "Please tell them"}]
    params = {"model": "claude", "max_tokens": 5, "system": "Be kind", "messages": messages}
    lines = [
        {"custom_id": f"id-{row}", "params": {**params, "temperature": 0, "top_k": row + 1}}
        for row in range(3)
    ]
    job = write_lines(tmp_path / "claude.jsonl", lines)
    requests, out = tmp_path / "requests.jsonl.gz", tmp_path / "out.jsonl"
    told = call("convert", job, requests, "--to", "vllm", "--model", model, "--json").summary
    assert (told["rows"], told["source"], told["to"]) == (3, "anthropic", "vllm")
    assert call("run-batch", "-i", requests, "-o", out, "--model", model).code == 0
    ran = call("convert", out, tmp_path / "out.parquet")
    assert ran.out.startswith("3 lines from openai-results to parquet")
    assert [row["request_id"] for row in read(tmp_path / "out.parquet")] == ["id-0", "id-1", "id-2"]
    assert call("convert", requests, tmp_path / "job.parquet").code == 0
    answers = tmp_path / "answers.jsonl"
    assert call("run", tmp_path / "job.parquet", "-m", model, "-o", answers).code == 0
    assert [row["output"] for row in read(answers)] == [
        row["output"] for row in read(tmp_path / "out.parquet")
    ]


def test_what_cannot_be_converted_exits_2_and_writes_nothing(tmp_path: Path) -> None:
    job = write_lines(tmp_path / "in.jsonl", [chat("a", "hi", model="m", n=2, temperature=1)])
    out = tmp_path / "out.jsonl"
    ran = call("convert", job, out, "--to", "anthropic", "--max-tokens", 3)
    assert ran.code == 2
    assert "in.jsonl line 1: anthropic has no word for n (2)" in ran.sentence
    assert not out.exists()
    more = ("--max-tokens", 3, "--drop-unsupported")
    assert call("convert", job, out, "--to", "anthropic", *more).code == 0
    assert "out.jsonl exists" in call("convert", job, out, "--to", "anthropic", *more).sentence
    assert call("convert", job, out, "--to", "anthropic", *more, "--overwrite").code == 0
    assert call("convert", job, job, "--to", "vllm", "--overwrite").code == 2
