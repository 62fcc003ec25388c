"""`batchpipe plan` of a length trace needs a configuration and nothing else of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden import check_golden
from harness import Ran, call, ended, spawn, write_lines, write_parquet

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
# Three conversations of 512-token blocks, each prompt with the one before it inside.
TRACE: list[dict[str, Any]] = [
    {
        "request_id": f"talk-{talk}-{turn}",
        "input_len": 512 * (turn + 1) + 40 * talk + 7,
        "output_len": 30 * (talk + 1),
        "hash_ids": [
            *(100 * talk + block for block in range(turn + 1)),
            100 * talk + 50 + turn,
        ],
    }
    for talk in range(3)
    for turn in range(4)
]

WITHOUT_TORCH = """
import sys
from batchpipe.cli import main
try:
    main(sys.argv[1:])
finally:
    print("loaded", [name for name, module in sys.modules.items()
                     if name.partition(".")[0] in ("torch", "polars") and module is not None])
"""


@pytest.fixture
def config_only(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def plan(path: Path, model: Path, *options: object) -> Ran:
    return call("plan", path, "-m", model, "--machine", "a100-80g", *options)


def test_a_trace_is_planned_from_the_configuration_alone(tmp_path: Path, config_only: Path) -> None:
    path = write_parquet(tmp_path / "trace.parquet", TRACE)
    ran = plan(path, config_only, "--simulate")
    assert ran.code == 0, ran.err
    check_golden("plan-trace", ran.out.rstrip("\n"))


def test_answers_are_as_long_as_the_trace_says(tmp_path: Path, config_only: Path) -> None:
    path = write_lines(tmp_path / "trace.jsonl", TRACE)
    told = plan(path, config_only, "--json").summary
    assert told["rows"] == told["runnable"] == 12
    assert told["prompt_tokens"] == sum(row["input_len"] for row in TRACE)
    answers = sum(row["output_len"] for row in TRACE)
    assert told["most_answer_tokens"] == told["expected_answer_tokens"] == answers
    assert told["shareable_prompt_tokens"] == 3 * 512 * (1 + 2 + 3)
    assert told["lengths_known"]


def test_a_limit_takes_the_first_requests(tmp_path: Path, config_only: Path) -> None:
    path = write_lines(tmp_path / "trace.jsonl", TRACE)
    assert plan(path, config_only, "--limit", 4, "--json").summary["rows"] == 4


def test_a_trace_loads_no_torch(tmp_path: Path, config_only: Path) -> None:
    path = write_lines(tmp_path / "trace.jsonl", TRACE)
    ran = ended(spawn("plan", path, "-m", config_only, "--json", script=WITHOUT_TORCH))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[1] == "loaded []"


def test_requests_beyond_the_context_are_named(tmp_path: Path, config_only: Path) -> None:
    rows = [{"input_len": 100, "output_len": 5}, {"input_len": 8192, "output_len": 5}]
    told = plan(write_lines(tmp_path / "trace.jsonl", rows), config_only, "--json").summary
    assert told["runnable"] == 1
    assert "prompt has 8192 tokens and the model's context is 8192" in told["faults"]["1"]


def test_hash_ids_that_form_no_tree_are_named(tmp_path: Path, config_only: Path) -> None:
    rows = [
        {"input_len": 600, "output_len": 5, "hash_ids": [1, 2]},
        {"input_len": 600, "output_len": 5, "hash_ids": [3, 2]},
    ]
    ran = plan(write_lines(tmp_path / "trace.jsonl", rows), config_only)
    assert (ran.code, ran.out) == (2, "")
    assert "trace.jsonl row 1: hash id 2 stands after id 3" in ran.sentence


def test_a_configuration_without_sizes_is_refused(tmp_path: Path, config_only: Path) -> None:
    path = write_lines(tmp_path / "trace.jsonl", TRACE)
    (config_only / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    ran = plan(path, config_only)
    assert (ran.code, ran.out) == (2, "")
    assert str(config_only) in ran.sentence


def test_a_template_makes_prompts_of_the_same_columns(
    tmp_path: Path, config_only: Path, bare_model: Path
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", TRACE)
    template = ("--template", "The length is {{ input_len }}", "--json")
    assert plan(path, bare_model, *template).summary["prompt_tokens"] < 12 * 40
    ran = plan(path, config_only, *template)  # which needs a tokenizer
    assert ran.code == 2
    assert "tokenizer" in ran.sentence
