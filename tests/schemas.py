"""JSON Schemas as hypothesis draws them, and values that they allow."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

NAMES = st.text("abcdeé_ ", min_size=1, max_size=4)
LABELS = st.lists(st.text("ab {}\"'\\é😀\n", min_size=1, max_size=5), min_size=2, max_size=5)

# Short, so that garbage comes to an end within a few hundred tokens.
STRINGS = st.builds(
    lambda most: {"type": "string", "maxLength": most}, st.integers(min_value=0, max_value=4)
)
PATTERNS = st.sampled_from(["^[0-9]{2}-[A-Z]$", "^(yes|no)$", "^a?b{1,3}$"])
LEAVES = st.one_of(
    STRINGS,
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, PATTERNS),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, width: {"type": "integer", "minimum": low, "maximum": low + width},
        st.integers(-200, 200),
        st.integers(0, 300),
    ),
    st.builds(
        lambda values: {"enum": values}, st.lists(st.sampled_from([1, "b", None]), min_size=1)
    ),
)


def _object(properties: dict[str, Schema], optional: int) -> Schema:
    names = list(properties)
    return {
        "type": "object",
        "properties": properties,
        "required": names[: max(0, len(names) - optional)],
        "additionalProperties": False,
    }


def _larger(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most},
            inner,
            st.integers(1, 2),
        ),
        st.builds(
            _object, st.dictionaries(NAMES, inner, min_size=1, max_size=3), st.integers(0, 1)
        ),
        st.builds(lambda kept: {"anyOf": [kept, {"type": "null"}]}, inner),
    )


def schemas() -> st.SearchStrategy[Schema]:
    """Small schemas without numbers that never end."""
    return st.recursive(LEAVES, _larger, max_leaves=4)


def values_of(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that the schema allows."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(values_of, schema["anyOf"]))
    kind = schema["type"]
    if kind == "string" and "pattern" in schema:
        return st.from_regex(re.compile(schema["pattern"].rstrip("$") + r"\Z", re.ASCII))
    if kind == "string":
        return st.text(max_size=schema["maxLength"])
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if kind == "array":
        return st.lists(values_of(schema["items"]), max_size=schema["maxItems"])
    if kind == "object":
        required = {name: values_of(schema["properties"][name]) for name in schema["required"]}
        others = {
            name: values_of(each)
            for name, each in schema["properties"].items()
            if name not in required
        }
        return st.fixed_dictionaries(required, optional=others)
    return st.booleans() if kind == "boolean" else st.none()
