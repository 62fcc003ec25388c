"""`logprobs` and `prompt_logprobs`: what a result row tells, in every format and after any stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from harness import Row, call, read, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

TOP = {"token_id", "token", "logprob"}


def run(tmp_path: Path, model: Path, rows: list[Row], *options: object, to: str = "o.jsonl") -> Any:
    """The result rows."""
    out = tmp_path / to
    ran = call("run", write_lines(tmp_path / "i.jsonl", rows), "-m", model, "-o", out, *options)
    assert ran.code == 0, ran.err
    return read(out)


def truth(model: Path, text: str, answer: list[int]) -> tuple[list[int], torch.Tensor]:
    """The tokens of prompt and answer, and behind each what the plain model finds likely."""
    tokens = [*AutoTokenizer.from_pretrained(model)(text)["input_ids"], *answer]
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return tokens, plain(input_ids=torch.tensor([tokens])).logits[0].log_softmax(dim=-1)


@pytest.mark.parametrize("to", ["o.jsonl", "o.parquet"])
def test_rows_tell_what_the_plain_model_says(tmp_path: Path, model: Path, to: str) -> None:
    options = ("--max-tokens", 5, "--ignore-eos", "--with-token-ids")
    rows = [{"prompt": "The parcel arrived", "logprobs": 2, "prompt_logprobs": 1}]
    [row] = run(tmp_path, model, rows, *options, to=to)
    tokens, found = truth(model, "The parcel arrived", row["output_token_ids"])
    told = [*row["prompt_logprobs"], *row["logprobs"]]
    assert [each["token_id"] for each in told] == tokens
    assert "".join(each["token"] for each in row["prompt_logprobs"]) == "The parcel arrived"
    first = told.pop(0)
    assert (first["logprob"], first["rank"], first["top"]) == (None, None, None)
    for place, each in enumerate(told):
        best = found[place].topk(2).indices.tolist()
        assert each["logprob"] == pytest.approx(float(found[place, tokens[place + 1]]), abs=2e-4)
        assert each["rank"] == 1 + int((found[place] > found[place, tokens[place + 1]]).sum())
        top = 1 if place < len(row["prompt_logprobs"]) - 1 else 2
        assert [other["token_id"] for other in each["top"]] == best[:top]
        assert all(set(other) == TOP for other in each["top"])
    assert row["input_logprobs"] == 2


def test_columns_are_there_only_where_asked_for(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": "Please"}]
    [plain] = run(tmp_path, model, rows, "--max-tokens", 2)
    assert not {"logprobs", "prompt_logprobs", "outputs_logprobs"} & plain.keys()
    [row] = run(tmp_path, model, rows, "--max-tokens", 2, "--logprobs", 0, to="p.jsonl")
    assert "prompt_logprobs" not in row
    assert [each["top"] for each in row["logprobs"]] == [[]] * row["completion_tokens"]
    assert row["output"] == plain["output"]


def test_a_row_that_is_scored_alone_draws_nothing(tmp_path: Path, model: Path) -> None:
    texts = ["The box was open", "The box was late", "The box was open", "T"]
    rows = [{"prompt": text} for text in texts]
    scored = run(tmp_path, model, rows, "--max-tokens", 0, "--prompt-logprobs", 0)
    for row in scored:
        assert (row["output"], row["completion_tokens"], row["status"]) == ("", 0, "success")
        tokens, found = truth(model, row["prompt"], [])
        values = [each["logprob"] for each in row["prompt_logprobs"][1:]]
        wanted = [float(found[place, token]) for place, token in enumerate(tokens[1:])]
        assert values == pytest.approx(wanted, abs=2e-4)
    assert scored[0]["prompt_logprobs"] == scored[2]["prompt_logprobs"]


def test_every_sample_has_its_own(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": "The refund", "n": 3, "prompt_logprobs": 0}, {"prompt": "The refund"}]
    options = ("--temperature", 1, "--max-tokens", 4, "--ignore-eos", "--logprobs", 1)
    several, one = run(tmp_path, model, rows, *options)
    assert several["logprobs"] == several["outputs_logprobs"][0]
    assert [len(each) for each in several["outputs_logprobs"]] == [4, 4, 4]
    assert len({json.dumps(each) for each in several["outputs_logprobs"]}) == 3
    assert one["outputs_logprobs"] is None
    assert one["prompt_logprobs"] is None
    assert len(several["prompt_logprobs"]) == several["prompt_tokens"]


def test_a_retry_may_ask_for_them(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": "The parcel"}, {"prompt": "Please tell them", "max_tokens": 9}]
    first = run(tmp_path, model, rows, "--max-tokens", 2, "--ignore-eos", to="o.parquet")
    chosen = ("--finish-reason", "length", "--set", "logprobs=1")
    ran = call("retry", tmp_path / "o.parquet.run", *chosen)
    assert ran.code == 0, ran.err
    again = read(tmp_path / "o.parquet")
    assert [row["output"] for row in again] == [row["output"] for row in first]
    assert [len(row["logprobs"]) for row in again] == [2, 9]
    kept = ("--status", "success", "--set", "max_tokens=1")
    assert call("retry", tmp_path / "o.parquet.run", *kept).code == 0
    assert [row["logprobs"] for row in read(tmp_path / "o.parquet")] == [None, None]


def test_what_is_in_the_journal_is_not_computed_again(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": f"Question {row}"} for row in range(3)]
    options = ("--max-tokens", 3, "--logprobs", 2, "--prompt-logprobs", 1)
    first = run(tmp_path, model, rows, *options, to="o.parquet")
    (tmp_path / "o.parquet").unlink()
    assert run(tmp_path, model, rows, *options, to="o.parquet") == first
    kind = pq.read_schema(tmp_path / "o.parquet").field("logprobs").type.value_type
    assert str(kind.field("logprob").type) == "float"
    assert np.isfinite([each["logprob"] for each in first[0]["logprobs"]]).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--logprobs", -1), "logprobs is -1; it must be a whole number from 0"),
        (("--prompt-logprobs", 21), "prompt_logprobs is 21; it must be"),
        (("--max-tokens", 0), "max_tokens is 0; it must be"),
        (
            ("--logprobs", 1, "--engine", "openai", "--base-url", "http://localhost:1/v1"),
            "--logprobs 1: --engine openai cannot tell logprobs",
        ),
    ],
)
def test_what_cannot_be_told_is_refused_before_the_model_loads(
    tmp_path: Path, bare_model: Path, options: tuple[object, ...], sentence: str
) -> None:
    job = write_lines(tmp_path / "i.jsonl", [{"prompt": "Please"}])
    ran = call("run", job, "-m", bare_model, "-o", tmp_path / "o.jsonl", *options)
    assert ran.code == 2
    assert sentence in ran.sentence


def test_a_row_with_a_wrong_number_is_an_error_row(tmp_path: Path, model: Path) -> None:
    rows = [{"prompt": "Please", "logprobs": 99}, {"prompt": "Please", "logprobs": None}]
    job = write_lines(tmp_path / "i.jsonl", rows)
    ran = call("run", job, "-m", model, "-o", tmp_path / "o.jsonl", "--max-tokens", 2)
    assert ran.code == 3, ran.err
    bad, good = read(tmp_path / "o.jsonl")
    assert bad["error"].startswith("logprobs is 99; it must be")
    assert good["status"] == "success"
    assert good["logprobs"] is None
