"""Fields in a line as a JSON Schema: ``name, age int, tags list[str], mood enum(good|bad)?``.

A field is a name, then perhaps a type (``str`` where there is none), then perhaps ``?`` for one
that may be null (or ``?`` behind the name), then perhaps ``: what it means``. A description ends at
the next comma.
"""

from __future__ import annotations

import re
from typing import Any

TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}

_NAME = re.compile(r"[^\W\d][\w-]*")
_LIST = re.compile(r"list\[(.+)\]")
_ENUM = re.compile(r"enum\((.+)\)")


class BadShorthand(ValueError):
    """The message says which field is wrong, and what a field is."""


def schema_of(text: str) -> dict[str, Any]:
    """The JSON Schema of an object with these fields, all of them required.

    Raises:
        BadShorthand: some field is none
    """
    properties: dict[str, Any] = {}
    for part in _parts(text):
        name, schema = _field(part)
        if name in properties:
            raise BadShorthand(f"it has the field {name} twice")
        properties[name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _parts(text: str) -> list[str]:
    """The text between commas, save those within brackets."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text)]


def _field(part: str) -> tuple[str, dict[str, Any]]:
    declared, colon, description = (piece.strip() for piece in part.partition(":"))
    name, _, kind = declared.partition(" ")
    kind = kind.strip() or "str"
    if name.endswith("?"):
        name, kind = name[:-1], f"{kind}?"
    if not _NAME.fullmatch(name):
        raise BadShorthand(f"{part!r} does not begin with a field's name")
    schema = _type(kind)
    return name, {**schema, "description": description} if colon else schema


def _type(text: str) -> dict[str, Any]:
    if text.endswith("?"):
        return {"anyOf": [_type(text[:-1].strip()), {"type": "null"}]}
    if text in TYPES:
        return {"type": TYPES[text]}
    if found := _LIST.fullmatch(text):
        return {"type": "array", "items": _type(found[1].strip())}
    if found := _ENUM.fullmatch(text):
        values = [value.strip() for value in found[1].split("|")]
        if "" in values or len(set(values)) < len(values):
            raise BadShorthand(f"{text!r} has an empty value or one twice")
        return {"enum": values}
    known = ", ".join(TYPES)
    raise BadShorthand(f"{text!r} is no type, as are {known}, list[...] and enum(a|b)")
