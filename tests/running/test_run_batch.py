"""`run-batch`, and `run` of OpenAI batch lines: every line has its answer or its error in place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from batch_lines import Line, chat, completion, line, parsed
from harness import Ran, call, ended, read, spawn, write_lines

from batchpipe.demo.prompt import MODEL_DIR

LIMIT = {"temperature": 0, "max_tokens": 6}


def run_batch(job: Path, model: Path, *more: object) -> Ran:
    return call("run-batch", "-i", job, "-o", job.parent / "out.jsonl", "--model", model, *more)


def answers(job: Path, model: Path, *more: object) -> list[Line]:
    ran = run_batch(job, model, *more)
    assert ran.code in (0, 3), ran.err
    return read(job.parent / "out.jsonl")


def texts(answer: Line) -> list[str]:
    body = parsed(answer)
    assert body is not None, answer["error"]
    return [
        choice.text if hasattr(choice, "text") else choice.message.content
        for choice in body.choices
    ]


def test_every_line_of_the_output_is_what_the_official_types_parse(
    tmp_path: Path, model: Path
) -> None:
    lines = [
        chat("a", "Please tell them", **LIMIT),
        completion("b", "Please tell them", n=2, max_tokens=3, seed=4),
        completion("c", [5, 6, 7], **LIMIT),
        chat("d", "Please tell them", stream=True),
        chat("a1", "x" * 3000),
    ]
    found = answers(write_lines(tmp_path / "in.jsonl", lines), model)
    assert [each["custom_id"] for each in found] == ["a", "b", "c", "d", "a1"]
    bodies = [parsed(each) for each in found]
    assert [body is None for body in bodies] == [False, False, False, True, True]
    assert len({each["id"] for each in found}) == 5
    assert bodies[0].object == "chat.completion"
    assert bodies[1].object == "text_completion"
    assert [choice.index for choice in bodies[1].choices] == [0, 1]
    assert bodies[0].model == str(model)
    for body in bodies[:3]:
        usage = body.usage
        assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
        assert all(choice.finish_reason in ("stop", "length") for choice in body.choices)


def test_lines_are_answered_as_the_rows_that_ask_the_same(tmp_path: Path, model: Path) -> None:
    message = [{"role": "user", "content": "Please tell them of the box"}]
    lines = [
        chat("a", "Please tell them of the box", **LIMIT),
        completion("b", "Please tell them", top_k=3, temperature=0.7, seed=3, max_tokens=5),
        completion("c", [5, 6, 7], ignore_eos=True, **LIMIT),
    ]
    rows: list[Line] = [
        {"messages": message, **LIMIT},
        {"prompt": "Please tell them", "top_k": 3, "temperature": 0.7, "seed": 3, "max_tokens": 5},
        {"prompt_token_ids": [5, 6, 7], "ignore_eos": True, **LIMIT},
    ]
    found = answers(write_lines(tmp_path / "in.jsonl", lines), model)
    for answer, row in zip(found, rows, strict=True):
        job = write_lines(tmp_path / "row.jsonl", [row])
        assert (
            call("run", job, "-m", model, "-o", tmp_path / "row-out.jsonl", "--overwrite").code == 0
        )
        [result] = read(tmp_path / "row-out.jsonl")
        assert texts(answer) == [result["output"]]
        [choice] = answer["response"]["body"]["choices"]
        assert choice["finish_reason"] == result["finish_reason"]
        usage = answer["response"]["body"]["usage"]
        assert usage["prompt_tokens"] == result["prompt_tokens"]
        assert usage["completion_tokens"] == result["completion_tokens"]


def test_run_knows_batch_lines_by_their_fields(tmp_path: Path, model: Path) -> None:
    job = write_lines(tmp_path / "in.jsonl", [chat("a", "Please tell them", **LIMIT)])
    [batch] = answers(job, model)
    out = tmp_path / "run.jsonl.gz"
    assert call("run", job, "-m", model, "-o", out).code == 0
    assert texts(read(out)[0]) == texts(batch)
    assert call("run", job, "-m", model, "-o", tmp_path / "run.parquet").code == 0
    [row] = read(tmp_path / "run.parquet")
    assert (row["custom_id"], row["output"]) == ("a", texts(batch)[0])
    assert row["body"]["messages"][0]["content"] == "Please tell them"


def test_a_list_of_prompts_has_all_of_its_choices_on_its_line(tmp_path: Path, model: Path) -> None:
    prompts = ["Please tell them", "The parcel", "Please tell them"]
    lines = [
        completion("all", prompts, **LIMIT),
        *(completion(f"{place}", prompt, **LIMIT) for place, prompt in enumerate(prompts)),
        completion("ids", [[5, 6], [7]], n=2, temperature=1, seed=1, max_tokens=2),
        completion("bad", ["Please", ""], **LIMIT),
    ]
    found = answers(write_lines(tmp_path / "in.jsonl", lines), model)
    assert texts(found[0]) == [texts(each)[0] for each in found[1:4]]
    alone = [each["response"]["body"]["usage"]["prompt_tokens"] for each in found[1:4]]
    assert found[0]["response"]["body"]["usage"]["prompt_tokens"] == sum(alone)
    assert len(texts(found[4])) == 4
    assert "line 6: prompt is empty" in found[5]["error"]["message"]


def test_what_a_line_leaves_open_is_as_in_the_api(tmp_path: Path, model: Path) -> None:
    """A completion has 16 tokens, a chat all that the context has; both are sampled."""
    lines = [
        completion("a", "Please tell them", ignore_eos=True),
        chat("b", "Please tell them", ignore_eos=True),
        completion("c", ["Please tell them"], n=2),
    ]
    job = write_lines(tmp_path / "in.jsonl", lines)
    first, second, third = answers(job, model)
    assert first["response"]["body"]["usage"]["completion_tokens"] == 16
    assert second["response"]["body"]["usage"]["total_tokens"] == 512
    one, other = texts(third)
    assert one != other
    short = answers(job, model, "--max-model-len", 40, "--overwrite")
    assert short[1]["response"]["body"]["usage"]["total_tokens"] == 40


BAD_LINES: list[tuple[str, Any]] = [
    ("not JSON", "nope"),
    (
        "response_format is {'type': 'xml'}; it must have the type text, json_object",
        chat("form", "hi", response_format={"type": "xml"}),
    ),
    ("custom_id is missing", {"method": "POST", "url": "/v1/completions", "body": {}}),
    ("custom_id is ['x']", line(["x"], "/v1/completions", {"prompt": "hi"})),
    ("method is 'GET'", chat("get", "hi") | {"method": "GET"}),
    ("url is '/v1/embeddings'", line("url", "/v1/embeddings", {"input": "hi"})),
    ("url is None", {"custom_id": "no-url", "method": "POST", "body": {}}),
    ("body is missing", {"custom_id": "no-body", "method": "POST", "url": "/v1/completions"}),
    ("body is 'hi'", line("text", "/v1/completions", "hi")),
    ("messages is missing", line("none", "/v1/chat/completions", {})),
    ("messages is empty", line("empty", "/v1/chat/completions", {"messages": []})),
    ("messages[0] has the role None", line("r", "/v1/chat/completions", {"messages": [{}]})),
    ("prompt is missing", line("prompt", "/v1/completions", {})),
    ("prompt is 7", completion("number", 7)),
    ("token id 999999 is not below", completion("ids", [999999])),
    ("stream is True; a batch file has no streams", chat("stream", "hi", stream=True)),
    ("presence_penalty is 0.5", chat("penalty", "hi", presence_penalty=0.5)),
    ("top_logprobs is 2 without logprobs", chat("top", "hi", top_logprobs=2)),
    ("logprobs is 99; it must be", completion("logprobs", "hi", logprobs=99)),
    ("prompt_logprobs has no place", completion("scored", "hi", prompt_logprobs=1)),
    ("tools is [{", chat("tools", "hi", tools=[{"type": "function"}])),
    ("wisdom is 3; batchpipe has no such field", chat("field", "hi", wisdom=3)),
    ("temperature is 'hot'", chat("hot", "hi", temperature="hot")),
    ("n is 2 at temperature 0", chat("n", "hi", n=2, temperature=0)),
    (
        "max_completion_tokens is 4 and contradicts",
        chat("m", "hi", max_tokens=3, max_completion_tokens=4),
    ),
    ("model is 'other', and this run answers for", chat("model", "hi", model="other")),
    ("has {'type': 'image_url'}; only texts", chat("i", [{"type": "image_url"}])),  # type: ignore[arg-type]
]


def test_a_bad_line_fails_in_its_place_and_the_others_run(tmp_path: Path, model: Path) -> None:
    """Each with its file, line number and reason, in the output and before that on stderr."""
    job = tmp_path / "in.jsonl"
    rows = [bad if isinstance(bad, str) else json.dumps(bad) for _, bad in BAD_LINES]
    rows = ["", *rows, json.dumps(chat("good", "Please tell them", **LIMIT))]
    job.write_text("\n".join(rows))
    ran = run_batch(job, model)
    assert ran.code == 3
    found = read(tmp_path / "out.jsonl")
    assert len(found) == len(BAD_LINES) + 1
    for number, (answer, (words, bad)) in enumerate(zip(found, BAD_LINES, strict=False), start=2):
        assert parsed(answer) is None
        message = answer["error"]["message"]
        assert message.startswith(f"in.jsonl line {number}")
        assert words in message
        assert answer["response"]["status_code"] == 400
        if isinstance(bad, dict) and isinstance(bad.get("custom_id"), str):
            assert answer["custom_id"] == bad["custom_id"]
    assert texts(found[-1])
    assert "in.jsonl line 2 column 1: not JSON" in ran.err
    assert f"{len(BAD_LINES)} lines cannot be answered, {len(BAD_LINES) - 10} of them" in ran.err


def test_fields_without_effect_are_no_fault(tmp_path: Path, model: Path) -> None:
    plain = chat("a", "Please tell them", **LIMIT)
    harmless = {
        "user": "u",
        "metadata": {"a": "b"},
        "stream": False,
        "logit_bias": {},
        "stop": None,
    }
    harmless |= {"presence_penalty": 0.0, "logprobs": False, "response_format": {"type": "text"}}
    wordy = chat("b", "Please tell them", **LIMIT, **harmless, model=str(model))
    parts = chat("c", [{"type": "text", "text": "Please tell them"}], **LIMIT)  # type: ignore[arg-type]
    found = answers(write_lines(tmp_path / "in.jsonl", [plain, wordy, parts]), model)
    assert texts(found[0]) == texts(found[1]) == texts(found[2])


def test_a_model_may_have_another_name(tmp_path: Path, model: Path) -> None:
    job = write_lines(tmp_path / "in.jsonl", [chat("a", "Please", model="gpt-x", **LIMIT)])
    [answer] = answers(job, model, "--served-model-name", "gpt-x")
    assert answer["response"]["body"]["model"] == "gpt-x"


def test_a_custom_id_on_two_lines_is_named_with_both(tmp_path: Path, bare_model: Path) -> None:
    job = tmp_path / "in.jsonl"
    lines = [json.dumps(chat(name, "hi")) for name in ("a", "b", "a")]
    job.write_text("\n\n".join(lines))
    ran = run_batch(job, bare_model)
    assert ran.code == 2
    assert "custom_id 'a' is on in.jsonl line 1 and on in.jsonl line 5" in ran.sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu-memory-utilization", "0.9"), "give --kv-memory"),
        (("--max-num-seqs=8",), "--max-num-seqs is no option here: memory"),
        (("--enable-metrics",), "status"),
        (("--what",), "--what is no option here"),
        (("more.jsonl",), "more.jsonl stands alone"),
        (("--max-model-len", "4096"), "--max-model-len 4096 must be from 2 to"),
    ],
)
def test_a_flag_without_use_here_is_named(
    tmp_path: Path, bare_model: Path, arguments: tuple[str, ...], words: str
) -> None:
    job = write_lines(tmp_path / "in.jsonl", [chat("a", "hi")])
    ran = run_batch(job, bare_model, *arguments)
    assert ran.code == 2
    assert words in ran.sentence


def test_other_files_and_options_are_refused_before_the_model_loads(
    tmp_path: Path, bare_model: Path
) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [{"prompt": "hi"}])
    assert (
        "has no OpenAI batch lines: its fields are prompt" in run_batch(rows, bare_model).sentence
    )
    mistral = write_lines(tmp_path / "m.jsonl", [{"custom_id": "a", "body": {}}])
    assert "batchpipe convert" in run_batch(mistral, bare_model).sentence
    job = write_lines(tmp_path / "in.jsonl", [chat("a", "hi")])
    line = ("run", job, "-m", bare_model, "-o", tmp_path / "o.jsonl")
    assert "no place for token ids" in call(*line, "--with-token-ids").sentence
    assert "named by custom_id" in call(*line, "--id-column", "url").sentence


def test_a_run_that_is_killed_goes_on_and_writes_what_an_undisturbed_one_does(
    tmp_path: Path, model: Path
) -> None:
    lines = [chat(f"id-{row}", f"Please tell them of box {row}", **LIMIT) for row in range(40)]
    lines[7]["url"] = "/v1/nothing"
    lines[9] = completion("list", ["Please", "tell them"], **LIMIT)
    job = write_lines(tmp_path / "in.jsonl", lines)
    command = ("run-batch", "-i", job, "--model", model, "--step-tokens", 24, "--json")
    manifest = tmp_path / "state" / "out.jsonl.run" / "manifest.json"
    (tmp_path / "state").mkdir()
    here = ("-o", tmp_path / "out.jsonl", "--output-tmp-dir", tmp_path / "state")
    process = spawn(*command, *here)
    while process.poll() is None and not (
        manifest.exists() and len(json.loads(manifest.read_text())["parts"]) > 1
    ):
        time.sleep(0.005)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    assert not (tmp_path / "out.jsonl").exists()
    assert call(*command, *here).code == 3
    assert call(*command, "-o", tmp_path / "whole.jsonl").code == 3
    assert said(tmp_path / "out.jsonl") == said(tmp_path / "whole.jsonl")


def test_a_retry_answers_failed_lines_with_the_models_first_name(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run directory knows how the model was called, also from another directory."""
    long = chat("a", "Please tell them", temperature=0, max_tokens=600, model=model.name)
    lines = [long, chat("b", "Please tell them", **LIMIT, model=model.name)]
    job = write_lines(tmp_path / "in.jsonl", lines)
    monkeypatch.chdir(model.parent)
    assert run_batch(job, Path(model.name)).code == 3
    monkeypatch.chdir(tmp_path)
    command = ("retry", "out.jsonl.run", "--status", "error", "--set", "max_tokens=6")
    assert call(*command).code == 0
    first, second = read(tmp_path / "out.jsonl")
    assert texts(first) == texts(second)
    assert first["response"]["body"]["model"] == model.name


def said(path: Path) -> list[Line]:
    """All of an output but what tells one run from another."""
    lines = read(path)
    for each in lines:
        del each["id"], each["response"]["request_id"]
        body = each["response"]["body"]
        if body is not None:
            del body["id"], body["created"], body["usage"]["prompt_tokens_details"]
    return lines


PYTHON = os.environ.get("BATCHPIPE_VLLM_PYTHON")
VLLM_READER = """
import sys
from vllm.entrypoints.launchers.run_batch import BatchRequestOutput
for line in sys.stdin:
    BatchRequestOutput.model_validate_json(line)
"""


@pytest.mark.skipif(PYTHON is None, reason="vllm is not installed")
def test_vllm_reads_every_line_of_a_batch_of_chats(tmp_path: Path, model: Path) -> None:
    lines = [chat("a", "Please tell them", **LIMIT), chat("b", "hi", stream=True)]
    answers(write_lines(tmp_path / "in.jsonl", lines), model)
    text = (tmp_path / "out.jsonl").read_text()
    command = [str(PYTHON), "-c", VLLM_READER]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


def test_logprobs_have_the_form_of_their_endpoint(tmp_path: Path, model: Path) -> None:
    lines = [
        chat("a", "Please", **LIMIT, logprobs=True, top_logprobs=3),
        chat("b", "Please", **LIMIT, logprobs=True),
        completion("c", "Please", **LIMIT, logprobs=2),
        completion("d", ["Please", "tell"], n=2, max_tokens=3, logprobs=0),
        chat("e", "Please", **LIMIT),
    ]
    found = [parsed(each) for each in answers(write_lines(tmp_path / "in.jsonl", lines), model)]
    first, second, third, fourth, fifth = [body.choices for body in found if body is not None]
    content = first[0].logprobs.content
    assert "".join(token.token for token in content).startswith(first[0].message.content)
    assert all(len(token.top_logprobs) == 3 for token in content)
    assert content[0].logprob == content[0].top_logprobs[0].logprob  # greedy draws the likeliest
    whole = [token for token in content if "\ufffd" not in token.token]
    assert all(bytes(token.bytes).decode() == token.token for token in whole)
    assert all(token.bytes is None for token in content if token not in whole)
    assert [token.logprob for token in second[0].logprobs.content] == [
        token.logprob for token in content
    ]
    assert second[0].logprobs.content[0].top_logprobs == []
    logprobs = third[0].logprobs
    assert logprobs.tokens[0] in logprobs.top_logprobs[0]
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    assert [len(choice.logprobs.tokens) for choice in fourth] == [3] * 4
    assert fifth[0].logprobs is None


def test_the_shipped_model_labels_tickets_as_a_batch(tmp_path: Path) -> None:
    job = write_lines(tmp_path / "in.jsonl", [chat("a", "My kettle is broken", **LIMIT)])
    [answer] = answers(job, MODEL_DIR)
    assert texts(answer)[0]


def test_a_response_format_is_kept_to(tmp_path: Path, model: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    lines = [
        chat("schema", "Please", max_tokens=40, response_format=form),
        chat("object", "Please", max_tokens=400, response_format={"type": "json_object"}, seed=1),
        completion("choice", "Please", structured_outputs={"choice": ["yes", "no"]}, n=2),
        chat("cut", "Please", max_tokens=2, response_format=form),
        chat("free", "Please", **LIMIT),
    ]
    found = answers(write_lines(tmp_path / "in.jsonl", lines), model)
    assert json.loads(texts(found[0])[0])["a"] in (1, 2)
    assert {*texts(found[2])} <= {"yes", "no"}
    assert texts(found[3])[0]
    assert found[3]["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert texts(found[4])[0]
