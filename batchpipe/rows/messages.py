"""Chat messages as job files hold them: a list of {role, content}, or its JSON."""

from __future__ import annotations

import json

from batchpipe.rows.words import shown

Message = dict[str, object]


class BadMessages(ValueError):
    """The cell holds no chat; the message is a sentence without the column's name."""


def parse_messages(cell: object, *, from_arrow: bool) -> list[Message]:
    """The chat in this cell.

    Arrow gives every struct of a column the same keys, with nulls where a message had none; with
    ``from_arrow`` these keys are dropped again, so that chat templates do not see them.
    """
    messages = _from_json(cell) if isinstance(cell, str) else cell
    if not isinstance(messages, list):
        raise BadMessages(f"is {shown(cell)}, not a list of {{role, content}}")
    if not messages:
        raise BadMessages("is empty")
    for index, message in enumerate(messages):
        _check(index, message)
    if from_arrow and not isinstance(cell, str):
        return [_pruned_message(message) for message in messages]
    return messages


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessages(f"is {shown(text)}, neither a list nor its JSON ({error})") from error


def _check(index: int, message: object) -> None:
    if not isinstance(message, dict):
        raise BadMessages(f"[{index}] is {shown(message)}, not an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise BadMessages(f"[{index}] has the role {shown(role)}; it must be a text such as 'user'")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return  # an assistant that only calls tools
    if not isinstance(content, (str, list)):
        raise BadMessages(f"[{index}] has the content {shown(content)}; it must be a text")


def _pruned_message(message: Message) -> Message:
    """``content`` stays even where it is null: chat templates ask for it by name."""
    kept = {key: _pruned(value) for key, value in message.items() if value is not None}
    if "content" in message:
        kept.setdefault("content", None)
    return kept


def _pruned(value: object) -> object:
    if isinstance(value, dict):
        return {key: _pruned(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_pruned(inner) for inner in value]
    return value
