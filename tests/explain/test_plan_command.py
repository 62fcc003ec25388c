"""`batchpipe plan`: what a run would compute, share and need, from tokenizer and configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import call, ended, files_in, spawn, write_lines

SHARED = "Read the letter of the customer and say whether it is urgent. "

# What runs as the command must load no torch, and stderr must stay silent.
WITHOUT_TORCH = """
import sys
from batchpipe.cli import main
try:
    main(sys.argv[1:])
finally:
    loaded = [name for name, module in sys.modules.items()
              if name.partition(".")[0] in ("torch", "polars") and module is not None]
    print("loaded", loaded)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{SHARED}The box {row}"} for row in range(10)]
    too_long = {"prompt": "The parcel is late. " * 200}
    return write_lines(tmp_path / "job.jsonl", [*rows, rows[3], too_long, {"prompt": ""}])


def test_plan_loads_no_torch_and_no_weights(job: Path, bare_model: Path) -> None:
    ran = ended(spawn("plan", job, "-m", bare_model, "--json", script=WITHOUT_TORCH))
    assert ran.code == 0, ran.err
    assert ran.err == ""
    report, loaded = ran.out.splitlines()
    assert loaded == "loaded []"
    assert json.loads(report)["rows"] == 13


def test_plan_prints_what_a_run_needs(job: Path, bare_model: Path) -> None:
    ran = call("plan", job, "-m", bare_model, "--max-tokens", 8, "--kv-memory", "1MB")
    assert ran.code == 0, ran.err
    lines = {line[:20].strip(): line[20:].strip() for line in ran.out.splitlines()}
    assert lines["rows"] == "13"
    assert lines["to run"] == "11, 1 of them duplicates"
    assert lines["will not run"] == "2"
    assert "row 11: prompt has" in ran.out
    assert "row 12: prompt is empty" in ran.out
    prompt_tokens, distinct = int(lines["prompt tokens"]), int(lines["distinct"])
    shareable = prompt_tokens - distinct
    assert lines["shareable"] == f"{shareable} ({shareable / prompt_tokens:.1%})"
    assert lines["answer tokens"] == "80 at most"
    assert lines["KV for all at once"].endswith("GB)")
    assert lines["KV available"] == "1,952 tokens (0.00 GB)"
    assert "tokens x 10 prompts" in ran.out
    assert "Read the letter of the customer" in ran.out
    assert files_in(job.parent) == {"job.jsonl"}


def test_plan_as_json_is_what_a_run_then_does(job: Path, model: Path) -> None:
    options = ("-m", model, "--max-tokens", 4, "--json")
    plan = call("plan", job, *options).summary
    run = call("run", job, *options, "-o", job.parent / "answers.jsonl").summary
    names = ("rows", "duplicates", "prompt_tokens", "shareable_prompt_tokens")
    assert {name: plan[name] for name in names} == {name: run[name] for name in names}
    assert plan["distinct_prompt_tokens"] == run["prompt_tokens"] - run["shareable_prompt_tokens"]
    assert plan["runnable"] == run["succeeded"] == 11
    assert set(plan["faults"]) == {"11", "12"}
    assert plan["kv_tokens_needed"] >= run["peak_kv_tokens"]
    assert plan["kv_tokens_available"] > 0
    assert plan["kv_bytes_per_token"] == 512  # 2 x 2 layers x 2 heads x 16 x 4 bytes


def test_rows_beyond_the_kv_memory_are_named(job: Path, bare_model: Path) -> None:
    ran = call("plan", job, "-m", bare_model, "--kv-memory", "40KB", "--max-tokens", 60, "--json")
    assert ran.code == 0
    assert "--kv-memory holds" in ran.summary["faults"]["0"]


@pytest.mark.parametrize("name", ["job.jsonl", "job.parquet"])
@pytest.mark.parametrize("options", [(), ("--compare", "--price-per-hour", 2)])
def test_the_plan_of_nothing_is_no_error(
    tmp_path: Path, bare_model: Path, name: str, options: tuple[object, ...]
) -> None:
    (tmp_path / name).touch()
    ran = call("plan", tmp_path / name, "-m", bare_model, "--json", *options)
    assert ran.code == 0, ran.err
    told = ran.summary
    assert told["rows"] == told["prompt_tokens"] == told["runnable"] == 0
    assert told["expected_seconds"] == told["kv_tokens_of_longest"] == 0
    assert told["advice"] == told["density_bins"] == []
    text = call("plan", tmp_path / name, "-m", bare_model, *options)
    assert text.code == 0, text.err
    assert text.out.startswith("rows                0")


def test_plan_honours_the_shared_options(job: Path, bare_model: Path) -> None:
    options = ("--limit", 5, "--order", "dfs", "--template", "{{ prompt }}?", "--dtype", "bfloat16")
    plan = call("plan", job, "-m", bare_model, *options, "--json").summary
    assert (plan["rows"], plan["order"], plan["kv_bytes_per_token"]) == (5, "dfs", 256)


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox", "qwen3_moe", "phi3"])
def test_every_kind_of_decoder_can_be_planned(
    job: Path, tiny_model: Callable[[str], Path], name: str
) -> None:
    plan = call("plan", job, "-m", tiny_model(name), "--json").summary
    assert plan["runnable"] == 11
