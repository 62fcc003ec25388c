"""A user's function over rows: only the rows at which it fails fail."""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.errors import ConfigError
from batchpipe.workflow.operators.python import Function, Row, row_keys
from batchpipe.workflow.steps import Python

FILE = "test_python_step.py"


def function(
    call: Callable[[list[Row]], Any] | str,
    reads: tuple[str, ...] = ("n",),
    writes: tuple[str, ...] = ("m",),
) -> Function:
    return Function(Python(name="clean", line=4, function=call, reads=reads, writes=writes))


def doubled(rows: list[Row]) -> list[Row]:
    return [{"m": 2 * row["n"]} for row in rows]


def inverted(rows: list[Row]) -> list[Row]:
    return [{"m": 1 / row["n"]} for row in rows]


def numbers(*values: Any) -> list[dict[str, Any]]:
    return [{"n": value} for value in values]


@given(st.lists(st.integers(-3, 3), max_size=12))
def test_only_the_rows_at_which_it_raises_fail_and_all_keep_their_place(values: list[int]) -> None:
    found = function(inverted).answer(numbers(*values))
    assert [outcome.values for outcome in found] == [{"m": 1 / n} if n else {} for n in values]
    assert [outcome.error is None for outcome in found] == [n != 0 for n in values]


def test_the_sentence_has_the_exception_and_the_functions_own_line() -> None:
    [found] = function(inverted).answer(numbers(0))
    line = inverted.__code__.co_firstlineno + 1
    assert str(found.error).startswith("ZeroDivisionError: division by zero (")
    assert str(found.error).endswith(f"{FILE}:{line})")

    def through_a_library(rows: list[Row]) -> list[Row]:
        return [{"m": datetime.date.fromisoformat(row["n"])} for row in rows]

    [found] = function(through_a_library).answer(numbers("no day"))
    line = through_a_library.__code__.co_firstlineno + 1
    assert str(found.error).endswith(f"{FILE}:{line})")


def test_all_rows_are_one_call_where_it_does_not_raise() -> None:
    calls: list[int] = []

    def counted(rows: list[Row]) -> list[Row]:
        calls.append(len(rows))
        return doubled(rows)

    assert len(function(counted).answer(numbers(*range(50)))) == 50
    assert calls == [50]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ([{"m": 1}], "the function returned 1 row for 2 rows"),
        ([], "the function returned 0 rows for 2 rows"),
        (None, "the function returned None in place of a list of dicts"),
        ({"m": 1}, "the function returned {'m': 1} in place of a list of dicts"),
        ("mm", "the function returned 'mm' in place of a list of dicts"),
    ],
)
def test_the_wrong_number_of_rows_fails_the_batch(made: Any, sentence: str) -> None:
    found = function(lambda rows: made).answer(numbers(1, 2))
    assert [outcome.error for outcome in found] == [sentence, sentence]


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (None, "the function returned None in place of a dict"),
        ({}, "the function returned no m; the step writes it"),
        ({"m": 1, "x": 2}, "the function returned x, which is not in `writes`"),
        ({"m": b"\x00"}, "the function returned a m that is of type bytes, which JSON cannot hold"),
        ({"m": {"a": [{1}]}},
         "the function returned a m that is of type set, which JSON cannot hold"),
        ({"m": math.nan}, "the function returned a m that is nan, which JSON has no number for"),
        ({"m": {1: 2}},
         "the function returned a m that is an object with the key 1, and JSON's keys are texts"),
    ],
)  # fmt: skip
def test_a_wrong_row_fails_alone(made: Any, sentence: str) -> None:
    found = function(lambda rows: [{"m": 1}, made, {"m": 3}]).answer(numbers(1, 2, 3))
    assert [outcome.error for outcome in found] == [None, sentence, None]


def test_values_become_what_json_holds() -> None:
    made = {
        "m": [np.int64(1), np.float32(0.5), np.arange(2), np.bool_(True), (1, 2)],
        "when": datetime.datetime(2024, 2, 29, 12),
    }
    [found] = function(lambda rows: [made], writes=("m", "when")).answer(numbers(1))
    assert found.values == {"m": [1, 0.5, [0, 1], True, [1, 2]], "when": "2024-02-29T12:00:00"}


def test_a_generator_and_any_iterable_are_lists_of_rows() -> None:
    assert function(lambda rows: (row for row in doubled(rows))).answer(numbers(4))[0].values == {
        "m": 8
    }


@pytest.mark.parametrize("error", [SystemExit(2), RecursionError()])
def test_a_function_that_wants_to_end_the_run_fails_its_row(error: BaseException) -> None:
    def leave(rows: list[Row]) -> list[Row]:
        raise error

    [found] = function(leave).answer(numbers(1))
    assert str(found.error).startswith(type(error).__name__)


def test_a_function_that_is_not_written_in_python_is_told_without_a_line() -> None:
    [found] = function(abs).answer(numbers(1))  # type: ignore[arg-type]
    assert found.error == "TypeError: bad operand type for abs(): 'list'"


def test_what_it_does_to_its_rows_is_seen_by_nobody_else() -> None:
    def spoiling(rows: list[Row]) -> list[Row]:
        for row in rows:
            row["n"].append(0)
        if len(rows) > 1:
            raise ValueError("only one, please")
        return [{"m": list(row.pop("n"))} for row in rows]

    given_rows = numbers([1], [2])
    found = function(spoiling).answer(given_rows)
    assert [outcome.values["m"] for outcome in found] == [[1, 0], [2, 0]]
    assert given_rows == numbers([1], [2])


@pytest.mark.parametrize(
    ("reads", "keys"),
    [
        (("title", "clean.names"), ["title", "names"]),
        (("a.output", "b.output", "c.first"), ["a.output", "b.output", "first"]),
        (("names", "clean.names"), ["names", "clean.names"]),
    ],
)
def test_a_rows_keys_are_last_names_where_these_are_enough(
    reads: tuple[str, ...], keys: list[str]
) -> None:
    assert list(row_keys(reads).values()) == keys
    seen: list[Row] = []

    def look(rows: list[Row]) -> list[Row]:
        seen.extend(rows)
        return [{"m": 0} for _ in rows]

    function(look, reads=reads).answer([{read: read.upper() for read in reads} | {"other": 1}])
    assert seen == [dict(zip(keys, map(str.upper, reads), strict=True))]


def test_a_function_by_name_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_cleaning_steps.py").write_text(
        "class Steps:\n"
        "    @staticmethod\n"
        "    def same(rows):\n"
        "        return [{'m': row['n']} for row in rows]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    [found] = function("my_cleaning_steps:Steps.same").answer(numbers(7))
    assert found.values == {"m": 7}
    del sys.modules["my_cleaning_steps"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("clean", "its function is 'clean'; write module:function"),
        (":clean", "its function is ':clean'; write module:function"),
        ("no_such_module:clean", "its function no_such_module:clean cannot be imported: No module "
            "named 'no_such_module'; modules are looked up"),
        ("math:clean", "its function math:clean cannot be imported: module 'math' has no "
            "attribute 'clean'"),
        ("math:pi", "math:pi is no function but 3.14159"),
    ],
)  # fmt: skip
def test_a_function_that_is_none_is_told_before_any_row(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as told:
        function(name)
    assert str(told.value).startswith(f"step clean (line 4): {sentence}")


def test_a_module_that_fails_to_load_is_told_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_steps.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported: division by zero"):
        function("broken_steps:clean")
