"""Whole numbers of a schema that has no bounds for them, bounded to what a column holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Eighteen digits: less than 2^63, and with nines alone the grammar has few rules.
LARGEST = 10**18 - 1

_LOWER = ("minimum", "exclusiveMinimum")
_UPPER = ("maximum", "exclusiveMaximum")
_ONE_SCHEMA = ("items", "additionalProperties", "not", "contains", "propertyNames")
_LIST_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")


def with_bounded_integers(schema: Any) -> Any:
    """The same schema, in which no whole number has more than 18 digits unless it says so.

    Without it an answer may be digits until its tokens run out, and no column can hold them.
    """
    if not isinstance(schema, Mapping):
        return schema
    bounded = dict(schema)
    for word in _ONE_SCHEMA:
        if isinstance(schema.get(word), Mapping):
            bounded[word] = with_bounded_integers(schema[word])
    for word in _LIST_OF_SCHEMAS:
        if isinstance(schema.get(word), list):
            bounded[word] = [with_bounded_integers(each) for each in schema[word]]
    for word in _NAMED_SCHEMAS:
        if isinstance(schema.get(word), Mapping):
            each = schema[word].items()
            bounded[word] = {name: with_bounded_integers(inner) for name, inner in each}
    return _bounded(bounded) if schema.get("type") == "integer" else bounded


def _bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """Leaves a bound alone that lies beyond 18 digits: it was asked for."""
    given = [schema[word] for word in (*_LOWER, *_UPPER) if word in schema]
    if any(not isinstance(bound, int | float) or abs(bound) > LARGEST for bound in given):
        return schema
    if not any(word in schema for word in _LOWER):
        schema["minimum"] = -LARGEST
    if not any(word in schema for word in _UPPER):
        schema["maximum"] = LARGEST
    return schema
