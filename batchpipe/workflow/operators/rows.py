"""Fewer rows, more rows, one row of many: the arithmetic of filter, explode and reduce."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batchpipe.rows.words import shown


class Unfit(ValueError):
    """The value is none that the step can take; the message is the row's sentence."""


def goes_on(value: object) -> bool:
    """Whether a row with this value of a filter's condition goes on: where Python calls it true.

    Raises:
        Unfit: it is text, which is true also where it says "false" or "no"
    """
    if isinstance(value, str):
        raise Unfit(
            f"the condition is the text {shown(value)}, of which any but the empty one counts as "
            f"true; compare it: ... == 'yes'"
        )
    return bool(value)


def elements(value: object) -> list[dict[str, Any]]:
    """A list's elements as the rows of an explode: ``item`` and ``index``; none of an empty list.

    Raises:
        Unfit: it is no list
    """
    if not isinstance(value, (list, tuple)):
        kinds = {str: "text", dict: "an object", bool: "true or false", type(None): "null"}
        what = kinds.get(type(value), "a number")
        raise Unfit(f"explode needs a list, and this is {what}: {shown(value)}")
    return [{"item": item, "index": index} for index, item in enumerate(value)]


def group_key(values: Sequence[Any]) -> str:
    """A text that two rows share exactly if their values of a reduce's ``by`` are equal.

    As JSON tells values apart: 1 and 1.0 are one number, 1 and true and "1" are three values, and
    an object's fields have no order.
    """
    return json.dumps([_as_one(value) for value in values], sort_keys=True)


def _as_one(value: Any) -> Any:
    """The value with all numbers that are integers written as such."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_as_one(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _as_one(inner) for name, inner in value.items()}
    return value
