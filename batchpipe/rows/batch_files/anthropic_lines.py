"""Anthropic's Message Batches: ``{custom_id, params}``, the system prompt beside the messages."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from batchpipe.rows.batch import Record
from batchpipe.rows.batch_files.request import (
    BadRequest,
    BatchRequest,
    Written,
    custom_id_of,
    messages_in,
    model_in,
    object_in,
    sorted_fields,
    write_fields,
)
from batchpipe.rows.words import shown

# A job's names -> Anthropic's.
NAMES = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop": "stop_sequences",
}
READ = frozenset(("model", "messages", "system"))
SYSTEM_ROLES = ("system", "developer")


def read_anthropic(line: Record) -> BatchRequest:
    """The request on this line; the system prompt is its first message."""
    custom_id = custom_id_of(line)
    params = object_in(line, "params")
    names = {theirs: ours for ours, theirs in NAMES.items()}
    parameters, others = sorted_fields("anthropic", params, names, READ)
    messages = [*_system_messages(params.get("system")), *messages_in(params)]
    return BatchRequest(custom_id, messages, True, model_in(params), parameters, others)


def write_anthropic(request: BatchRequest) -> Written:
    """The request as Anthropic takes it.

    Raises:
        BadRequest: it lacks what Anthropic needs, or its messages have no form there
    """
    if not request.is_chat:
        raise BadRequest("it has a plain prompt, and Anthropic's batches are of chats")
    if request.model is None:
        raise BadRequest("it names no model, which Anthropic needs: give --model")
    if "max_tokens" not in request.parameters:
        raise BadRequest("it has no max_tokens, which Anthropic needs: give --max-tokens")
    fields, unsaid = write_fields("anthropic", request, NAMES, frozenset())
    temperature = fields.get("temperature")
    if isinstance(temperature, (int, float)) and temperature > 1:
        unsaid.append(f"temperature above 1 ({fields.pop('temperature')})")
    stop = fields.get("stop_sequences")
    if isinstance(stop, str):
        fields["stop_sequences"] = [stop]
    system, messages = _split(request.prompt)
    params: Record = {"model": request.model, **fields}
    if system is not None:
        params["system"] = system
    params["messages"] = messages
    return Written({"custom_id": request.custom_id, "params": params}, tuple(unsaid))


def _system_messages(system: object) -> list[Record]:
    """A message for each of the system's texts: Anthropic allows a text or a list of them."""
    if system is None:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    if isinstance(system, list) and all(_is_text(block) for block in system):
        return [{"role": "system", "content": block["text"]} for block in system]
    raise BadRequest(f"system is {shown(system)}, neither a text nor a list of texts alone")


def _is_text(block: object) -> bool:
    return isinstance(block, dict) and block.keys() == {"type", "text"} and block["type"] == "text"


def _split(prompt: object) -> tuple[object, list[Any]]:
    """The system prompt, None where there is none, and the messages behind it."""
    assert isinstance(prompt, list)
    first = list(takewhile(_is_system, prompt))
    texts = [text for message in first for text in _texts(message)]
    messages = prompt[len(first) :]
    for index, message in enumerate(messages, start=len(first)):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise BadRequest(
                f"messages[{index}] is {shown(message)}; behind the system prompt Anthropic has "
                f"messages of user and assistant alone"
            )
        _texts(message)
        if not message.keys() <= {"role", "content"}:
            raise BadRequest(f"messages[{index}] has more than role and content, a call, say")
    if len(texts) < 2:
        return (texts[0] if texts else None), messages
    return [{"type": "text", "text": text} for text in texts], messages


def _is_system(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in SYSTEM_ROLES


def _texts(message: Record) -> list[str]:
    """The texts of a message that has nothing else, for all else each API writes in its own way."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    if isinstance(content, list) and all(_is_text(part) for part in content):
        return [part["text"] for part in content]
    raise BadRequest(f"a message has the content {shown(content)}; only texts can be converted")
