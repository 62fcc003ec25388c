"""Whether a text is what was asked for, and the value in it: a check of its own, after the masks.

A mask holds an answer to its grammar, but not one that is cut short, that a server wrote, or whose
schema says more than a grammar can (``uniqueItems``, ``multipleOf``). Alone imports `jsonschema`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from batchpipe.planner.request import Constraint
from batchpipe.rows.json_text import to_json
from batchpipe.rows.words import one_line, shown
from batchpipe.structured.constraint import labels_of

LARGEST_INTEGER = 2**63 - 1
CUT = "the answer ran out of tokens before it was complete; raise max_tokens"
KEPT = 1024  # constraints whose labels or validator are at hand


@dataclass(frozen=True, slots=True)
class Judged:
    """The value of a text that is right, or what is wrong with it."""

    parsed: str | None = None  # as JSON; None where the text itself is all there is
    fault: str | None = None


# Whether the text is all of what a regular expression or grammar matches; None: not known here.
Matches = Callable[[Constraint, str], bool | None]


def judge(constraint: Constraint, text: str, matches: Matches, *, cut: bool) -> Judged:
    """What the text is to the constraint.

    Args:
        matches: what knows regular expressions and grammars
        cut: its tokens ran out, so that more might have followed
    """
    if constraint.kind == "choices":
        if text in _labels(constraint):
            return Judged(to_json(text))
        return Judged(fault=f"the answer {shown(text)} is none of the choices")
    if constraint.kind == "schema":
        return _judge_json(constraint, text, cut=cut)
    matched = matches(constraint, text)
    if matched or (matched is None and not cut):
        return Judged()
    return Judged(fault=CUT if cut else f"the answer does not match the {constraint.kind}")


def _judge_json(constraint: Constraint, text: str, *, cut: bool) -> Judged:
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return Judged(fault=CUT if cut else f"the answer is no JSON ({one_line(str(error))})")
    if not _is_storable(value):
        return Judged(fault="the answer has a number of more than 64 bits")
    wrong = next(_validator(constraint).iter_errors(value), None)
    if wrong is None:
        return Judged(to_json(value))
    where = "".join(f"[{json.dumps(step)}]" for step in wrong.absolute_path)
    at = f" at {where}" if where else ""
    return Judged(fault=f"the answer breaks the schema{at}: {one_line(wrong.message)}")


def matches_by_re(constraint: Constraint, text: str) -> bool | None:
    """`Matches` where no grammar engine is at hand, as it is behind a server."""
    if constraint.kind != "regex":
        return None
    try:
        # What `.`, `\\d` and `\\w` mean to the engines that write such answers.
        return re.fullmatch(constraint.text, text, re.ASCII | re.DOTALL) is not None
    except re.error:
        return None


@lru_cache(maxsize=KEPT)
def _labels(constraint: Constraint) -> frozenset[str]:
    return frozenset(labels_of(constraint))


@lru_cache(maxsize=KEPT)
def _validator(constraint: Constraint) -> Any:
    """A validator that fetches nothing: what a schema refers to is in it."""
    import jsonschema
    import referencing

    schema = json.loads(constraint.text)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    return kind(schema, registry=referencing.Registry())


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_storable(value: Any) -> bool:
    """Its numbers fit columns of 64 bits."""
    if isinstance(value, dict):
        return all(map(_is_storable, value.values()))
    if isinstance(value, list):
        return all(map(_is_storable, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= LARGEST_INTEGER
