"""How each row wants to be sampled: the run's own options, and columns that override them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.planner.request import Constraint, Sampling
from batchpipe.rows.batch import Rows
from batchpipe.rows.parameter_values import CHECKS, LIMIT_ALLOWED, BadValue
from batchpipe.structured.constraint import KINDS, constraint_of, most_tokens

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
    except BadValue as bad:
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
    except BadValue as bad:
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
                raise BadValue(f"{name} is 0; it must be {LIMIT_ALLOWED}")
        except BadValue as bad:
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
            except BadValue as bad:
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
        except BadValue as bad:
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
            raise BadValue(f"{named[field]} and {column} {_TWINS[field]}: give one")
        if field not in chosen:
            chosen[field] = CHECKS[field](column, value)
            named[field] = column
    sampling = replace(defaults, **chosen) if chosen else defaults
    if sampling.max_tokens == 0 and sampling.prompt_logprobs is None:
        given = zip(columns, values, strict=True)
        limits = [name for name, v in given if COLUMNS[name] == "max_tokens" and v is not None]
        raise BadValue(f"{(*limits, 'max_tokens')[0]} is 0; it must be {LIMIT_ALLOWED}")
    if sampling.n > 1 and sampling.temperature == 0:
        raise BadValue(
            f"n is {sampling.n} at temperature 0; all samples would be equal: "
            f"n must be 1 or the temperature above 0"
        )
    if sampling.ignore_eos and sampling.constraint is not None:
        raise BadValue(f"ignore_eos and {sampling.constraint.kind} exclude each other: give one")
    return sampling


def _limited(sampling: Sampling) -> Sampling:
    """The same; an answer to choices is no longer than the longest of them."""
    most = None if sampling.constraint is None else most_tokens(sampling.constraint)
    if most is None or most >= sampling.max_tokens:
        return sampling
    return replace(sampling, max_tokens=most)
