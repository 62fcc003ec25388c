"""What a user asks of an answer's form, checked as far as that needs no grammar engine.

Texts from job columns and options, Python values and pydantic models all become one `Constraint`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import cast

from batchpipe.planner.request import Constraint, ConstraintKind
from batchpipe.rows.words import shown
from batchpipe.structured.shorthand import BadShorthand, schema_of

# A model class that tells its schema: pydantic's, without importing pydantic.
SCHEMA_METHOD = "model_json_schema"


class BadConstraint(ValueError):
    """The message is a sentence with the value and the fix."""


def constraint_of(name: str, value: object) -> Constraint:
    """What ``value`` asks for as ``choices``, ``schema``, ``regex`` or ``grammar``.

    A schema is a JSON Schema as a dict or text, a pydantic model class, or `name, age int`.

    Raises:
        BadConstraint: it makes no sense, with the name, the value and what would
    """
    return Constraint(cast(ConstraintKind, name), KINDS[name](name, value))


def labels_of(constraint: Constraint) -> list[str]:
    """The texts of a constraint of the kind ``choices``, in their order."""
    assert constraint.kind == "choices", constraint.kind
    labels: list[str] = json.loads(constraint.text)
    return labels


def most_tokens(constraint: Constraint) -> int | None:
    """Tokens that no answer exceeds, its end included, as each has a byte; None: no such bound."""
    if constraint.kind != "choices":
        return None
    return max(len(label.encode()) for label in labels_of(constraint)) + 1


def _choices(name: str, value: object) -> str:
    labels = _listed(value) if isinstance(value, str) else value
    if not isinstance(labels, (list, tuple)) or not all(isinstance(each, str) for each in labels):
        raise BadConstraint(f"{name} is {shown(value)}; it must be a list of texts")
    if len(labels) < 2:
        raise BadConstraint(f"{name} is {shown(value)}; there is no choice: give two texts or more")
    for place, label in enumerate(labels):
        if not label:
            raise BadConstraint(f"{name} is {shown(value)}; none of its texts may be empty")
        if label in labels[:place]:
            raise BadConstraint(f"{name} has {label!r} twice; give each text once")
        _check_encodable(name, label)
    return json.dumps(list(labels), ensure_ascii=False)


def _listed(text: str) -> object:
    """A JSON list, or texts with commas between them."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [label.strip() for label in text.split(",")] if text.strip() else []


def _schema(name: str, value: object) -> str:
    if isinstance(value, type) and hasattr(value, SCHEMA_METHOD):
        value = getattr(value, SCHEMA_METHOD)()
    if isinstance(value, str):
        value = _parsed_schema(name, value)
    if not isinstance(value, Mapping):
        raise BadConstraint(
            f"{name} is {shown(value)}; it must be a JSON Schema, an object, or fields such as "
            f"'name, age int'"
        )
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadConstraint(f"{name} is no JSON ({error}); it must be a JSON Schema") from error
    _check_encodable(name, text)
    return text


def _parsed_schema(name: str, text: str) -> object:
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError as error:
            raise BadConstraint(f"{name} is {shown(text)}, which is no JSON ({error})") from error
    try:
        return schema_of(text)
    except BadShorthand as bad:
        raise BadConstraint(
            f"{name} is {shown(text)}, which is neither JSON nor a list of fields: {bad}; write "
            f"for example 'name, age int', or rename the column if it means something else"
        ) from bad


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise BadConstraint(f"{name} is {shown(value)}; it must be a text that is not empty")
    _check_encodable(name, value)
    return value


def _check_encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadConstraint(f"{name} has half a surrogate pair, which no text can have") from error


# Kind -> the text of a constraint from its name, for messages, and a user's value.
KINDS: dict[str, Callable[[str, object], str]] = {
    "choices": _choices,
    "schema": _schema,
    "regex": _text,
    "grammar": _text,
}
