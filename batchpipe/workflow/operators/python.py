"""A user's function over a batch of rows."""

from __future__ import annotations

import copy
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed, one_line, shown
from batchpipe.workflow.authoring.functions import imported, row_keys
from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.operators.plain import NotPlain, plain
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Python

Row = dict[str, Any]


class Function:
    """A step's function, called with a list of rows; a row is a dict of the columns that it reads.

    A column's key is its last name, ``names`` for ``clean.names``; where two columns have the same
    last name, both have their full ones. The function returns as many dicts, each with the fields
    that the step writes. What it does to the rows that it is given is seen by nobody else.

    Raises:
        ConfigError: there is no such function
    """

    def __init__(self, step: Python) -> None:
        self._step = step
        self._function = _function(step)
        self._keys = row_keys(step.reads)

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """What the function makes of each row, given by columns' full names; in their order.

        Where the function raises, it is called once more for each row alone, so that only the rows
        at which it raises fail.
        """
        began = time.perf_counter()
        outcomes = self._answered(rows)
        seconds = (time.perf_counter() - began) / max(1, len(rows))
        return [Outcome(each.values, each.error, seconds) for each in outcomes]

    def _answered(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        asked = [
            {key: copy.deepcopy(row[read]) for read, key in self._keys.items()} for row in rows
        ]
        try:
            made = self._function(asked)
            found = None if _is_no_list(made) else list(made)
        except (Exception, SystemExit) as error:  # whatever the user's code does
            if len(rows) > 1:
                return [outcome for row in rows for outcome in self._answered([row])]
            return [Outcome(error=self._raised(error))]
        if found is None:
            sentence = f"the function returned {shown(made)} in place of a list of dicts"
        elif len(found) != len(rows):
            sentence = f"the function returned {_rows(len(found))} for {_rows(len(rows))}"
        else:
            return [self._outcome(row) for row in found]
        return [Outcome(error=sentence) for _ in rows]

    def _outcome(self, row: object) -> Outcome:
        if not isinstance(row, Mapping):
            return Outcome(error=f"the function returned {shown(row)} in place of a dict")
        writes = self._step.writes
        if missing := [name for name in writes if name not in row]:
            return Outcome(error=f"the function returned no {listed(missing)}; the step writes it")
        if more := [str(name) for name in row if name not in writes]:
            return Outcome(error=f"the function returned {listed(more)}, which is not in `writes`")
        values = {}
        for name in writes:
            try:
                values[name] = plain(row[name])
            except NotPlain as reason:
                return Outcome(error=f"the function returned a {name} that is {reason}")
        return Outcome(values)

    def _raised(self, error: BaseException) -> str:
        """The exception and the last line of the function's own file that led to it."""
        frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is ours
        code = getattr(self._function, "__code__", None)
        own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
        cause = one_line(str(error))
        what = f"{type(error).__name__}: {cause}" if cause else type(error).__name__
        if not (own or frames):  # a function that is not written in Python
            return what
        frame = (own or frames)[-1]
        return f"{what} ({_file(frame.filename)}:{frame.lineno})"


def _function(step: Python) -> Callable[[list[Row]], Any]:
    try:
        return imported(step.function)
    except Fault as fault:
        raise ConfigError(f"{step.place}: {fault}") from fault


def _is_no_list(made: object) -> bool:
    return isinstance(made, (str, bytes, Mapping)) or not isinstance(made, Iterable)


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _file(path: str) -> str:
    """The file as a person in the working directory would name it."""
    inside = os.path.relpath(path)
    return path if inside.startswith("..") else inside
