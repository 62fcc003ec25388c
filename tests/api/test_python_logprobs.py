"""Log-probabilities come in vLLM's form, and are those that a results file has."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from harness import call, read, write_lines

import batchpipe as bp

TEXTS = ["Question: which ticket is urgent? Answer:", "The refund goes to", "Question: which box?"]


def test_each_drawn_token_is_told_with_the_likeliest(llm: bp.LLM) -> None:
    params = bp.SamplingParams(max_tokens=6, temperature=1.5, logprobs=3)
    for answer in llm.generate(TEXTS, params):
        [sample] = answer.outputs
        assert sample.logprobs is not None
        assert answer.logprobs == sample.logprobs
        assert len(sample.logprobs) == len(sample.token_ids)
        for token, found in zip(sample.token_ids, sample.logprobs, strict=True):
            assert next(iter(found)) == token
            best = [each for each in found.values() if each.rank <= 3]
            assert len(best) == 3
            assert len(found) == 3 + (found[token].rank > 3)
            likelier = sorted(best, key=lambda each: -each.logprob)
            assert [each.rank for each in likelier] == [1, 2, 3]
        drawn = zip(sample.token_ids, sample.logprobs, strict=True)
        total = sum(found[token].logprob for token, found in drawn)
        assert sample.cumulative_logprob == pytest.approx(total)


def test_a_prompt_is_told_from_its_second_token_on(llm: bp.LLM) -> None:
    params = bp.SamplingParams(max_tokens=0, prompt_logprobs=1)
    for answer in llm.generate(TEXTS, params):
        told = answer.prompt_logprobs
        assert told is not None
        assert len(told) == answer.prompt_tokens
        assert told[0] is None
        for token, found in zip(answer.prompt_token_ids[1:], told[1:], strict=True):
            assert found is not None
            assert token in found
        assert told[-1] == told[len(told) - 1] == list(told)[-1]
        assert answer.output == ""


def test_who_does_not_ask_is_told_nothing(llm: bp.LLM) -> None:
    params = [None, bp.SamplingParams(logprobs=0), None]
    plain, asked, failed = llm.generate([TEXTS[0], TEXTS[0], ""], params)
    assert (plain.logprobs, plain.prompt_logprobs, plain.outputs[0].cumulative_logprob) == (
        None,
        None,
        None,
    )
    assert asked.logprobs is not None
    assert all(len(found) == 1 for found in asked.logprobs)
    assert (failed.status, failed.logprobs) == ("error", None)


def test_every_sample_has_its_own(llm: bp.LLM) -> None:
    params = bp.SamplingParams(max_tokens=4, temperature=1.2, n=3, logprobs=1)
    for answer in llm.generate(TEXTS, params):
        for sample in answer.outputs:
            assert sample.logprobs is not None
            assert [next(iter(found)) for found in sample.logprobs] == list(sample.token_ids)


@pytest.mark.parametrize("run_dir", [None, "kept"])
@pytest.mark.parametrize("kind", ["arrow", "polars", "pandas"])
def test_a_dataframe_gets_the_columns_of_a_results_file(
    llm: bp.LLM, tmp_path: Path, kind: str, run_dir: str | None
) -> None:
    makers = {"arrow": pa.table, "polars": pl.DataFrame, "pandas": pd.DataFrame}
    frame = makers[kind]({"text": TEXTS, "logprobs": [1, 2, 3]})
    more = bp.annotate(
        frame,
        model=llm,
        prompt="text",
        output="said",
        run_dir=run_dir and tmp_path / run_dir,
        max_tokens=3,
        logprobs=2,
        prompt_logprobs=0,
    )
    names = list(more.column_names if kind == "arrow" else more.columns)
    assert names == ["text", "logprobs", "said", "said_logprobs", "said_prompt_logprobs"]
    job = write_lines(tmp_path / "job.jsonl", ({"prompt": text} for text in TEXTS))
    options = ["--max-tokens=3", "--logprobs=2", "--prompt-logprobs=0"]
    call("run", job, "-m", llm.model, "-o", tmp_path / "out.jsonl", *options)
    for place, row in enumerate(read(tmp_path / "out.jsonl")):
        for name in ("logprobs", "prompt_logprobs"):
            cells = more[f"said_{name}"][place]
            cells = cells.as_py() if kind == "arrow" else list(cells)
            assert [each["token"] for each in cells] == [each["token"] for each in row[name]]
            found = [np.nan if each["logprob"] is None else each["logprob"] for each in cells]
            told = [np.nan if each["logprob"] is None else each["logprob"] for each in row[name]]
            np.testing.assert_allclose(found, told, atol=1e-4)


def test_the_numbers_take_little_memory(llm: bp.LLM) -> None:
    [answer] = llm.generate([[1] * 200], bp.SamplingParams(max_tokens=0, prompt_logprobs=0))
    told = answer.prompt_logprobs
    assert told is not None
    dicts = sum(sys.getsizeof(found) for found in told)
    assert told._cell.get_total_buffer_size() < dicts / 5
