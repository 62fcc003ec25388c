"""Batch files from one API's form to another's and to job files: the same requests, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from batch_lines import chat, completion
from hypothesis import given
from hypothesis import strategies as st
from row_jobs import cut_small, read_back

from batchpipe import batch_commands
from batchpipe.errors import ConfigError
from batchpipe.rows.batch_files.anthropic_lines import read_anthropic, write_anthropic
from batchpipe.rows.batch_files.convert import (
    JOBS,
    READERS,
    WRITERS,
    Converted,
    ConvertOptions,
    convert_file,
)
from batchpipe.rows.batch_files.job_rows import read_job_row, write_job_row
from batchpipe.rows.batch_files.mistral_lines import read_mistral, write_mistral
from batchpipe.rows.batch_files.openai_lines import read_openai, write_openai, write_vllm
from batchpipe.rows.batch_files.request import BatchRequest, Written

ROUND_TRIPS: dict[str, tuple[Callable[..., Written], Callable[..., BatchRequest]]] = {
    "openai": (write_openai, read_openai),
    "vllm": (write_vllm, read_openai),
    "anthropic": (write_anthropic, read_anthropic),
    "mistral": (write_mistral, read_mistral),
    "job": (
        write_job_row,
        lambda row: read_job_row(row, row["request_id"], from_arrow=False),
    ),
}

texts = st.text(min_size=1, max_size=8)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": texts}),
    min_size=1,
    max_size=3,
)
systems = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": texts}), max_size=2)
parameters = st.fixed_dictionaries(
    {"max_tokens": st.integers(1, 99)},
    optional={
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0.1, 1),
        "stop": st.lists(texts, min_size=1, max_size=3),
    },
)
chats = st.builds(
    lambda name, system, messages, model, chosen: BatchRequest(
        name, [*system, *messages], True, model, chosen
    ),
    texts,
    systems,
    turns,
    texts,
    parameters,
)


@given(request=chats, way=st.lists(st.sampled_from(sorted(ROUND_TRIPS)), max_size=4))
def test_what_all_formats_share_survives_any_way_through_them(
    request: BatchRequest, way: list[str]
) -> None:
    found = request
    for name in way:
        write, read = ROUND_TRIPS[name]
        line, unsaid = write(found)
        assert not unsaid
        found = read(json.loads(json.dumps(line)))
    assert found == request


prompts = st.one_of(texts, st.lists(st.integers(0, 99), min_size=1, max_size=4))
more = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 4),
        "seed": st.integers(0, 99),
        "top_k": st.integers(1, 9),
        "min_p": st.floats(0, 1),
        "repetition_penalty": st.floats(0.5, 2),
        "stop_token_ids": st.lists(st.integers(0, 99)),
        "ignore_eos": st.booleans(),
    },
)


@given(prompt=prompts, chosen=more, name=texts)
def test_a_job_and_vllms_lines_say_the_same(prompt: object, chosen: Any, name: str) -> None:
    request = BatchRequest(name, prompt, False, "m", chosen)
    for way in (("vllm", "job"), ("job", "vllm")):
        found = request
        for each in way:
            write, read = ROUND_TRIPS[each]
            line, unsaid = write(found)
            assert not unsaid
            found = read(line)
        assert found == request


@given(
    request=chats, others=st.dictionaries(st.sampled_from(["tools", "user", "logit_bias"]), texts)
)
def test_a_format_keeps_what_it_alone_has(request: BatchRequest, others: dict[str, str]) -> None:
    line, _ = write_openai(request)
    line["body"] |= others
    assert write_openai(read_openai(line)) == Written(line, ())


def converted(folder: Path, lines: list[Any], out: str, **options: Any) -> Converted:
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return convert_file(ConvertOptions(str(path), str(folder / out), **options))


def refused(folder: Path, lines: list[Any], out: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        converted(folder, lines, out, **options)
    assert not (folder / out).exists()
    return str(caught.value)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_lines_are_streamed_in_order_through_any_packing(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch, rows=3)
    lines = [chat(str(row), f"hi {row}", model="m", max_tokens=5) for row in range(10)]
    done = converted(tmp_path, lines, f"a{ending}", to="anthropic")
    assert (done.rows, done.source, done.dropped) == (10, "openai", 0)
    back = ConvertOptions(str(tmp_path / f"a{ending}"), str(tmp_path / "b.jsonl"), to="openai")
    assert convert_file(back).source == "anthropic"
    for found, line in zip(read_back(tmp_path / "b.jsonl"), lines, strict=True):
        line["body"]["max_completion_tokens"] = line["body"].pop("max_tokens")
        assert found == line


def test_a_parquet_job_has_one_type_a_column_and_the_way_back(tmp_path: Path) -> None:
    lines = [
        chat("a", "hi", max_tokens=5, stop="x", temperature=1),
        chat("b", "ho", temperature=0.5, stop=["y", "z"], seed=3),
    ]
    converted(tmp_path, lines, "job.parquet")
    table = pq.read_table(tmp_path / "job.parquet")
    first, second = table.to_pylist()
    assert first["messages"] == [{"role": "user", "content": "hi"}]
    assert (first["stop"], second["stop"]) == (["x"], ["y", "z"])
    assert (first["seed"], second["seed"], first["temperature"]) == (None, 3, 1.0)
    back = ConvertOptions(str(tmp_path / "job.parquet"), str(tmp_path / "v.jsonl"), to="vllm")
    assert convert_file(back).source == "parquet"
    found = [read_openai(line) for line in read_back(tmp_path / "v.jsonl")]
    assert found[1] == read_openai(lines[1])


def test_what_a_format_cannot_say_is_told_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = chat("a", "hi", model="m", max_tokens=3)
    bad = chat("b", "hi", model="m", max_tokens=3, n=2, temperature=1.5, seed=4)
    told = refused(tmp_path, [good, bad, bad | {"custom_id": "c"}], "out.jsonl", to="anthropic")
    assert told == (
        "in.jsonl line 2: anthropic has no word for n (2), seed (4), temperature above 1 (1.5): "
        "--drop-unsupported leaves it out"
    )
    lines = [good, bad, bad | {"custom_id": "c"}]
    done = converted(tmp_path, lines, "out.jsonl", to="anthropic", drop_unsupported=True)
    assert done.dropped == 2
    assert capsys.readouterr().err.count("is left out, here and below") == 3
    assert [row["params"].keys() for row in read_back(tmp_path / "out.jsonl")] == [
        {"model", "max_tokens", "messages"}
    ] * 3


CHAT = chat("a", "hi", model="m", max_tokens=3)


@pytest.mark.parametrize(
    ("lines", "to", "words"),
    [
        ([CHAT, "x"], "vllm", "in.jsonl line 2: a string, not an object"),
        ([CHAT, completion("b", "hi", model="m")], "mistral", "line 2: it has a plain prompt"),
        ([CHAT, completion("b", "hi", model="m")], "anthropic", "line 2: it has a plain prompt"),
        (
            [CHAT, completion("b", "hi")],
            "jsonl",
            "line 2: it is a plain prompt, and in.jsonl line 1",
        ),
        ([completion("b", ["hi", "ho"])], "jsonl", "line 1: it has a list of prompts"),
        (
            [chat("b", "hi")],
            "openai",
            "line 1: it names no model, which OpenAI needs: give --model",
        ),
        ([chat("b", "hi")], "anthropic", "give --model"),
        ([chat("b", "hi", model="m")], "anthropic", "no max_tokens, which Anthropic needs: give"),
        ([chat("b", "hi", model=3)], "vllm", "line 1: model is 3; it must be a text"),
        ([chat("b", "hi", temperature=-1)], "vllm", "line 1: temperature is -1; it must be"),
        ([CHAT, CHAT], "vllm", "custom_id 'a' is on in.jsonl line 1 and on in.jsonl line 2"),
        ([CHAT | {"url": "/v1/x"}], "vllm", "line 1: url is '/v1/x'"),
        ([{"text": "hi"}], "vllm", "line 1: it has none for a prompt"),
        ([{"prompt": "hi", "label": 3}], "vllm", "line 1: vllm has no word for label (3)"),
    ],
)
def test_a_line_that_cannot_be_converted_is_named(
    tmp_path: Path, lines: list[Any], to: str, words: str
) -> None:
    assert words in refused(tmp_path, lines, "out.jsonl", to=to)


def test_files_that_cannot_be_are_refused(tmp_path: Path) -> None:
    assert "say which by --to" in refused(tmp_path, [CHAT], "out.jsonl")
    assert "does not go with the name" in refused(tmp_path, [CHAT], "out.parquet", to="vllm")
    assert "does not go with the name" in refused(tmp_path, [CHAT], "out.jsonl", to="parquet")
    assert "become a table" in refused(
        tmp_path, [{"custom_id": "a", "response": {}}], "out.jsonl", to="vllm"
    )


def test_model_and_max_tokens_fill_what_a_format_needs(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi"}]}, {"prompt_token_ids": None}]
    rows[1] = {"request_id": "mine", "messages": rows[0]["messages"], "max_tokens": 2}
    converted(tmp_path, rows, "out.jsonl", to="anthropic", model="claude", max_tokens=9)
    first, second = read_back(tmp_path / "out.jsonl")
    assert (first["custom_id"], first["params"]["max_tokens"]) == ("row-0", 9)
    assert (second["custom_id"], second["params"]["max_tokens"]) == ("mine", 2)
    assert first["params"]["model"] == second["params"]["model"] == "claude"


def test_results_of_every_api_become_a_table(tmp_path: Path) -> None:
    body = {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    choices = [{"message": {"content": "ho"}, "finish_reason": "length"}]
    openai = [
        {"custom_id": "a", "response": {"status_code": 200, "body": {**body, "choices": choices}}},
        {"custom_id": "b", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}},
        {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": "late"}},
    ]
    done = converted(tmp_path, openai, "out.parquet")
    assert done.source == "openai-results"
    first, second, third = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert (first["output"], first["finish_reason"], first["prompt_tokens"]) == ("ho", "length", 3)
    assert (second["status"], second["error"]) == ("error", "no")
    assert (third["request_id"], third["error"]) == ("c", "late")
    message = {
        "content": [{"type": "text", "text": "ho"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    failed = {"type": "error", "error": {"type": "invalid_request", "message": "no"}}
    anthropic = [
        {"custom_id": "a", "result": {"type": "succeeded", "message": message}},
        {"custom_id": "b", "result": {"type": "errored", "error": failed}},
        {"custom_id": "c", "result": {"type": "expired"}},
    ]
    converted(tmp_path, anthropic, "out.jsonl", to="jsonl")
    first, second, third = read_back(tmp_path / "out.jsonl")
    assert (first["output"], first["finish_reason"], first["prompt_tokens"]) == ("ho", "stop", 3)
    assert (second["error"], third["error"]) == ("no", "expired")


def test_the_command_knows_every_format() -> None:
    assert set(batch_commands.READS) == {*READERS, *JOBS}
    assert set(batch_commands.WRITES) == {*WRITERS}


def test_fields_that_ask_for_nothing_need_no_word(tmp_path: Path) -> None:
    line = chat("a", "hi", model="m", max_tokens=3, stream=False, logprobs=False, seed=None)
    converted(tmp_path, [line], "out.jsonl", to="anthropic")
    scored = completion("a", "hi", model="m", logprobs=0)
    assert "logprobs (0)" in refused(tmp_path, [scored], "out2.jsonl", to="jsonl")
