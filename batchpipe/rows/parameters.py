"""How each row wants to be sampled: the run's own options, and columns that override them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Constraint, Sampling
from batchpipe.rows.batch import Rows
from batchpipe.rows.words import shown
from batchpipe.structured.constraint import KINDS, BadConstraint, constraint_of, most_tokens


class _BadValue(ValueError):
    """The message is a sentence with the column, the value and the range."""


def _integer(column: str, value: object, allowed: str) -> int:
    """JSON and pandas write whole numbers as floats too; a bool is no number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _BadValue(f"{column} is {shown(value)}; it must be {allowed}")


def _whole(lowest: int, highest: int, allowed: str) -> Callable[[str, object], int]:
    def check(column: str, value: object) -> int:
        number = _integer(column, value, allowed)
        if not lowest <= number <= highest:
            raise _BadValue(f"{column} is {number}; it must be {allowed}")
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
        raise _BadValue(f"{column} is {shown(value)}; it must be {allowed}")

    return check


def _top_k(column: str, value: object) -> int:
    return max(
        0, _whole(-1, _LARGEST, "a whole number of 1 or more, or 0 or -1 for off")(column, value)
    )


def _stop(column: str, value: object) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, (list, tuple)) and all(isinstance(t, str) and t for t in texts):
        return tuple(texts)
    raise _BadValue(f"{column} is {shown(value)}; it must be a text or a list of texts, none empty")


def _stop_token_ids(column: str, value: object) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        with suppress(_BadValue):
            return tuple(_TOKEN_ID(column, token) for token in value)
    raise _BadValue(
        f"{column} is {shown(value)}; it must be a list of token ids, whole numbers of 0 or more"
    )


def _flag(column: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _BadValue(f"{column} is {shown(value)}; it must be true or false")


def _constraint(column: str, value: object) -> Constraint:
    try:
        return constraint_of(column, value)
    except BadConstraint as bad:
        raise _BadValue(str(bad)) from bad


MOST_LOGPROBS = 20  # likeliest tokens beside each; vLLM's own limit, and OpenAI's

_LARGEST = 2**63 - 1
_TOKEN_ID = _whole(0, 2**31 - 1, "a token id")
_POSITIVE = _whole(1, _LARGEST, "a whole number of 1 or more")
_LIMIT_ALLOWED = "a whole number of 1 or more, or 0 beside prompt_logprobs"
_LIKELIEST = _whole(0, MOST_LOGPROBS, f"a whole number from 0, the token alone, to {MOST_LOGPROBS}")

# Field of Sampling -> check of a value that is not null.
CHECKS: dict[str, Callable[[str, object], object]] = {
    "max_tokens": _whole(0, _LARGEST, _LIMIT_ALLOWED),
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

# Column -> field of Sampling. Of a row's several names for one field the first here counts.
COLUMNS: dict[str, str] = {
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    **{name: name for name in CHECKS if name not in ("max_tokens", "constraint")},
    **dict.fromkeys(KINDS, "constraint"),
}


_ALIASES = "are two names of one parameter"
_TWINS = {"constraint": "exclude each other"}


def check_sampling(**values: object) -> Sampling:
    """The run's own sampling; None takes `Sampling`'s default, a wrong value is a ConfigError."""
    unknown = [name for name in values if name not in COLUMNS]
    if unknown:
        raise ConfigError(f"{unknown[0]} is no sampling parameter; they are {', '.join(COLUMNS)}")
    try:
        return _overridden(Sampling(), list(values), list(values.values()))
    except _BadValue as bad:
        raise ConfigError(str(bad)) from bad


def constraint_in(values: Mapping[str, object]) -> Constraint | None:
    """The form that these parameters ask of an answer; a wrong one is a `ConfigError`."""
    check_overrides(values)
    asked = [constraint_of(name, values[name]) for name in KINDS if name in values]
    return asked[0] if asked else None


def sampled_by(defaults: Sampling, given: Mapping[str, object]) -> Sampling | str:
    """The defaults with these parameters in their place, or a sentence on what is wrong."""
    try:
        return _limited(_overridden(defaults, list(given), list(given.values())))
    except _BadValue as bad:
        return str(bad)


def check_overrides(values: Mapping[str, object]) -> None:
    """Every value may override all rows; ``ConfigError`` for an unknown name or a wrong value."""
    named: dict[str, str] = {}
    for name, value in values.items():
        if name not in COLUMNS:
            raise ConfigError(f"{name} is no sampling parameter; they are {', '.join(COLUMNS)}")
        twin = named.setdefault(COLUMNS[name], name)
        if twin != name:
            raise ConfigError(f"{twin} and {name} {_TWINS.get(COLUMNS[name], _ALIASES)}: give one")
        try:
            checked = CHECKS[COLUMNS[name]](name, value)
            if (COLUMNS[name], checked) == ("max_tokens", 0) and "prompt_logprobs" not in values:
                raise _BadValue(f"{name} is 0; it must be {_LIMIT_ALLOWED}")
        except _BadValue as bad:
            raise ConfigError(str(bad)) from bad


class SamplingReader:
    """Reads how each row is sampled: by ``overrides``, else its own columns, else ``defaults``.

    Raises ``ConfigError`` for overrides that are wrong, or that no row can be sampled with.
    """

    def __init__(
        self,
        columns: Collection[str],  # that may say how their row is sampled
        defaults: Sampling,
        overrides: Mapping[str, object] | None = None,
    ) -> None:
        overrides = overrides or {}
        check_overrides(overrides)
        fields: dict[str, Any] = {
            COLUMNS[name]: CHECKS[COLUMNS[name]](name, value) for name, value in overrides.items()
        }
        self._columns = [
            name for name in COLUMNS if name in columns and COLUMNS[name] not in fields
        ]
        self._defaults = replace(defaults, **fields) if fields else defaults
        self._equal = {self._defaults: self._defaults}
        if overrides and not self._columns:
            try:
                _overridden(self._defaults, [], [])
            except _BadValue as bad:
                raise ConfigError(str(bad)) from bad

    def read(self, rows: Rows) -> list[Sampling | str]:
        """One `Sampling` per row, or a sentence where a row's own value is out of range.

        Equal rows share one object, in other batches too. Rows that could not be read get the
        defaults; their fault is in ``rows.faults``.
        """
        if not self._columns:
            return [_limited(self._defaults)] * len(rows)
        seen: dict[str, Sampling | str] = {}
        answers: list[Sampling | str] = []
        for row in zip(*(_cells(rows, name) for name in self._columns), strict=True):
            key = repr(row)  # not the values: 1 == True and 1 == 1.0, and a list has no hash
            if key not in seen:
                seen[key] = self._sampling(row)
            answers.append(seen[key])
        return answers

    def _sampling(self, row: tuple[object, ...]) -> Sampling | str:
        try:
            sampling = _limited(_overridden(self._defaults, self._columns, row))
        except _BadValue as bad:
            return str(bad)
        return self._equal.setdefault(sampling, sampling)


def _cells(rows: Rows, name: str) -> list[object]:
    """The column's cells; of an Arrow struct that is a schema, without what is null in this row.

    One struct has the fields of all rows, so that a field that a row lacks is null there.
    """
    cells = rows.values(name)
    if name != "schema" or rows.table is None:
        return cells
    return [_without_nulls(cell) for cell in cells]


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _overridden(defaults: Sampling, columns: Sequence[str], values: Sequence[object]) -> Sampling:
    chosen: dict[str, Any] = {}
    named: dict[str, str] = {}
    for column, value in zip(columns, values, strict=True):
        field = COLUMNS[column]
        if value is None:
            continue
        if field in chosen and field in _TWINS:
            raise _BadValue(f"{named[field]} and {column} {_TWINS[field]}: give one")
        if field not in chosen:
            chosen[field] = CHECKS[field](column, value)
            named[field] = column
    sampling = replace(defaults, **chosen) if chosen else defaults
    if sampling.max_tokens == 0 and sampling.prompt_logprobs is None:
        given = zip(columns, values, strict=True)
        limits = [name for name, v in given if COLUMNS[name] == "max_tokens" and v is not None]
        raise _BadValue(f"{(*limits, 'max_tokens')[0]} is 0; it must be {_LIMIT_ALLOWED}")
    if sampling.n > 1 and sampling.temperature == 0:
        raise _BadValue(
            f"n is {sampling.n} at temperature 0; all samples would be equal: "
            f"n must be 1 or the temperature above 0"
        )
    if sampling.ignore_eos and sampling.constraint is not None:
        raise _BadValue(f"ignore_eos and {sampling.constraint.kind} exclude each other: give one")
    return sampling


def _limited(sampling: Sampling) -> Sampling:
    """The same; an answer to choices is no longer than the longest of them."""
    most = None if sampling.constraint is None else most_tokens(sampling.constraint)
    if most is None or most >= sampling.max_tokens:
        return sampling
    return replace(sampling, max_tokens=most)
