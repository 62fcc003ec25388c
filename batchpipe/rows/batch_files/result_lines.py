"""What APIs answer to batch files, as rows of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchpipe.rows.batch import Record
from batchpipe.rows.batch_files.request import BadRequest, custom_id_of, object_in
from batchpipe.rows.json_text import to_json
from batchpipe.rows.words import shown

COLUMNS = (
    "request_id",
    "model",
    "output",
    "status",
    "finish_reason",
    "error",
    "prompt_tokens",
    "completion_tokens",
)
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
}


@dataclass(frozen=True, slots=True)
class ResultFormat:
    """How answers are known, and how one becomes a row."""

    fields: tuple[str, ...]
    row: Callable[[Record], Record]  # raises BadRequest


def read_openai_answer(line: Record) -> Record:
    """The row of an answer by OpenAI, vLLM or Mistral, of a chat or of a completion."""
    custom_id = custom_id_of(line)
    response = line.get("response")
    if line.get("error") or not isinstance(response, dict):
        return _failed(custom_id, line.get("error") or "it has no response")
    body = response.get("body")
    if response.get("status_code", 200) >= 400 or not isinstance(body, dict):
        error = body.get("error", body) if isinstance(body, dict) else body
        return _failed(custom_id, error or f"status {response.get('status_code')}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadRequest(f"choices is {shown(choices)}; only chats and completions can be read")
    texts = [_text(choice) for choice in choices]
    return _answered(custom_id, body, texts, choices[0].get("finish_reason"))


def read_anthropic_answer(line: Record) -> Record:
    """The row of an answer by Anthropic; of its blocks, the texts."""
    custom_id = custom_id_of(line)
    result = object_in(line, "result")
    if result.get("type") != "succeeded":
        return _failed(custom_id, result.get("error") or str(result.get("type")))
    message = object_in(result, "message")
    blocks = message.get("content")
    if not isinstance(blocks, list):
        raise BadRequest(f"content is {shown(blocks)}, not a list of blocks")
    text = "".join(block["text"] for block in blocks if block.get("type") == "text")
    return _answered(custom_id, message, [text], message.get("stop_reason"))


# Names under which `convert` tells what it read.
RESULTS = {
    "openai-results": ResultFormat(("custom_id", "response"), read_openai_answer),
    "anthropic-results": ResultFormat(("custom_id", "result"), read_anthropic_answer),
}


def _answered(custom_id: str, body: Record, texts: list[Any], reason: object) -> Record:
    usage: Any = body.get("usage") or {}
    several: Record = {"outputs": texts} if len(texts) > 1 else {}
    return {
        **dict.fromkeys(COLUMNS),
        "request_id": custom_id,
        "model": body.get("model"),
        "output": texts[0],
        "status": "success",
        "finish_reason": FINISH_REASONS.get(str(reason), reason),
        "prompt_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "completion_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        **several,
    }


def _failed(custom_id: str, error: object) -> Record:
    while isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]  # Anthropic and vLLM wrap it once more
    message = error.get("message") if isinstance(error, dict) else error
    sentence = message if isinstance(message, str) else to_json(error)
    failed: Record = {"request_id": custom_id, "status": "error", "error": sentence}
    return dict.fromkeys(COLUMNS) | failed


def _text(choice: Any) -> Any:
    """A choice's text; None where it is a refusal or calls a tool."""
    if not isinstance(choice, dict):
        raise BadRequest(f"a choice is {shown(choice)}, not an object")
    message = choice.get("message")
    return message.get("content") if isinstance(message, dict) else choice.get("text")
