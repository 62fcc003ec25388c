"""Results as OpenAI's batch output lines, in the order of the input.

A line that failed has a ``status_code`` of 400 or more, an ``error`` and no body: so does the
reader of OpenAI's error file find it, and so has vLLM's reader a line of its own form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, BinaryIO

import pyarrow as pa

from batchpipe.rows.batch import Record, Rows
from batchpipe.rows.batch_files.openai_lines import COMPLETIONS
from batchpipe.rows.batch_files.openai_logprobs import chat_logprobs, text_logprobs
from batchpipe.rows.json_text import to_json

BAD_REQUEST, SERVER_ERROR = 400, 500


@dataclass(frozen=True, slots=True)
class OpenAILines:
    """What all output lines of a run say alike."""

    model: str
    created: int  # seconds since 1970: when the run began, so that a resumed run writes the same


def write_openai_answers(
    stream: BinaryIO, answered: Iterator[tuple[Rows, pa.Table]], form: OpenAILines
) -> None:
    """One line a row, as its endpoint answers."""
    for rows, answers in answered:
        for place, answer in enumerate(answers.to_pylist()):
            stream.write(to_json(_line(rows, place, answer, form)).encode() + b"\n")


def _line(rows: Rows, place: int, answer: Mapping[str, Any], form: OpenAILines) -> Record:
    row = rows.records[place] or {}
    name = _name(rows, place, form.created)
    line: Record = {"id": f"batch_req_{name}", "custom_id": _custom_id(rows, place)}
    response: Record = {"status_code": 200, "request_id": f"req_{name}", "body": None}
    if answer["output"] is not None:
        response["body"] = _body(str(row["url"]), answer, form, name)
        return line | {"response": response, "error": None}
    # What reading a line found wrong with it says where it is; all else went wrong later.
    of_the_line = answer["error"].startswith(rows.where(place))
    response["status_code"] = BAD_REQUEST if of_the_line else SERVER_ERROR
    sentence = rows.named(place, answer["error"])
    return line | {"response": response, "error": _error(of_the_line, sentence)}


def _name(rows: Rows, place: int, created: int) -> str:
    """The row's in this run, the same however often it is resumed."""
    identity = "\0".join(map(str, (created, *rows.identity(place))))
    return blake2b(identity.encode(), digest_size=16).hexdigest()


def _custom_id(rows: Rows, place: int) -> str:
    """The line's own; a line that has none is called as a row without a name is."""
    named = (rows.records[place] or {}).get("custom_id")
    return f"row-{rows.first + place}" if named is None else str(named)


def _error(of_the_line: bool, sentence: str) -> Record:
    code = "invalid_request" if of_the_line else "server_error"
    return {"code": code, "message": sentence, "type": f"{code}_error", "param": None}


def _body(url: str, answer: Mapping[str, Any], form: OpenAILines, name: str) -> Record:
    """A chat completion or a text completion."""
    is_text = url == COMPLETIONS
    texts = answer["outputs"] or [answer["output"]]
    ends = answer["finish_reasons"] or [answer["finish_reason"]]
    scores = answer["outputs_logprobs"] or [answer["logprobs"]] * len(texts)
    choices = [
        _choice(index, *each, is_text=is_text)
        for index, each in enumerate(zip(texts, ends, scores, strict=True))
    ]
    return {
        "id": f"{'cmpl' if is_text else 'chatcmpl'}-{name}",
        "object": "text_completion" if is_text else "chat.completion",
        "created": form.created,
        "model": form.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": answer["prompt_tokens"],
            "completion_tokens": answer["completion_tokens"],
            "total_tokens": answer["prompt_tokens"] + answer["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": answer["cached_tokens"]},
        },
    }


def _choice(
    index: int, text: str, finish_reason: str, scores: list[Any] | None, *, is_text: bool
) -> Record:
    said: Record = (
        {"text": text}
        if is_text
        else {"message": {"role": "assistant", "content": text, "refusal": None}}
    )
    logprobs: Record | None = None
    if scores is not None:
        logprobs = text_logprobs(scores) if is_text else chat_logprobs(scores)
    return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish_reason}
