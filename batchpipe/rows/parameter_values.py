"""Which values each sampling parameter takes, whoever gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from batchpipe.planner.request import Constraint
from batchpipe.rows.words import shown
from batchpipe.structured.constraint import BadConstraint, constraint_of


class BadValue(ValueError):
    """The message is a sentence with the column, the value and the range."""


def _integer(column: str, value: object, allowed: str) -> int:
    """JSON and pandas write whole numbers as floats too; a bool is no number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise BadValue(f"{column} is {shown(value)}; it must be {allowed}")


def _whole(lowest: int, highest: int, allowed: str) -> Callable[[str, object], int]:
    def check(column: str, value: object) -> int:
        number = _integer(column, value, allowed)
        if not lowest <= number <= highest:
            raise BadValue(f"{column} is {number}; it must be {allowed}")
        return number

    return check


def _real(within: Callable[[float], bool], allowed: str) -> Callable[[str, object], float]:
    def check(column: str, value: object) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number) and within(number):
                return number
        raise BadValue(f"{column} is {shown(value)}; it must be {allowed}")

    return check


def _top_k(column: str, value: object) -> int:
    return max(
        0, _whole(-1, _LARGEST, "a whole number of 1 or more, or 0 or -1 for off")(column, value)
    )


def _stop(column: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, (list, tuple)) and all(isinstance(t, str) and t for t in texts):
        return tuple(texts)
    raise BadValue(f"{column} is {shown(value)}; it must be a text or a list of texts, none empty")


def _stop_token_ids(column: str, value: object) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        with suppress(BadValue):
            return tuple(_TOKEN_ID(column, token) for token in value)
    raise BadValue(
        f"{column} is {shown(value)}; it must be a list of token ids, whole numbers of 0 or more"
    )


def _flag(column: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise BadValue(f"{column} is {shown(value)}; it must be true or false")


def _constraint(column: str, value: object) -> Constraint:
    try:
        return constraint_of(column, value)
    except BadConstraint as bad:
        raise BadValue(str(bad)) from bad


MOST_LOGPROBS = 20  # likeliest tokens beside each; vLLM's own limit, and OpenAI's

_LARGEST = 2**63 - 1
_TOKEN_ID = _whole(0, 2**31 - 1, "a token id")
_POSITIVE = _whole(1, _LARGEST, "a whole number of 1 or more")
LIMIT_ALLOWED = "a whole number of 1 or more, or 0 beside prompt_logprobs"
_LIKELIEST = _whole(0, MOST_LOGPROBS, f"a whole number from 0, the token alone, to {MOST_LOGPROBS}")

# Field of Sampling -> check of a value that is not null.
CHECKS: dict[str, Callable[[str, object], object]] = {
    "max_tokens": _whole(0, _LARGEST, LIMIT_ALLOWED),
    "temperature": _real(lambda x: x >= 0, "a number of 0 or more"),
    "top_p": _real(lambda x: 0 < x <= 1, "a number above 0 and up to 1"),
    "top_k": _top_k,
    "min_p": _real(lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "repetition_penalty": _real(lambda x: x > 0, "a number above 0"),
    "n": _POSITIVE,
    "seed": _whole(-_LARGEST - 1, _LARGEST, "a whole number of 64 bits"),
    "stop": _stop,
    "stop_token_ids": _stop_token_ids,
    "ignore_eos": _flag,
    "constraint": _constraint,
    "logprobs": _LIKELIEST,
    "prompt_logprobs": _LIKELIEST,
}
