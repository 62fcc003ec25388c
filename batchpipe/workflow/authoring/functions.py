"""The functions of `python` steps: those given, or imported by ``module:function``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from batchpipe.rows.words import one_line, shown
from batchpipe.workflow.authoring.names import Fault

Function = Callable[[list[dict[str, Any]]], Any]


def imported(function: Function | str) -> Function:
    """The function itself, whose module may also lie in the working directory.

    Raises:
        Fault: there is none
    """
    if not isinstance(function, str):
        return function
    module_name, colon, name = function.partition(":")
    if not (module_name and colon and name):
        raise Fault(f"its function is {shown(function)}; write module:function", "python")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last: it hides no installed module
    try:
        found = import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the user's code
        cause = one_line(str(error)) or type(error).__name__
        raise Fault(
            f"its function {function} cannot be imported: {cause}; modules are looked up among "
            f"the installed ones and in the working directory",
            "python",
        ) from error
    if not callable(found):
        raise Fault(f"{function} is no function but {shown(found)}", "python")
    called: Function = found
    return called


def row_keys(reads: Sequence[str]) -> dict[str, str]:
    """What each column is called in a row: its last name, or all of it where two share that."""
    last = {read: read.rpartition(".")[2] for read in reads}
    count = Counter(last.values())
    return {read: name if count[name] == 1 else read for read, name in last.items()}


def name_of(function: Function | str) -> str:
    """The function's name and where it is defined, the same in each process."""
    if isinstance(function, str):
        return function
    code = getattr(function, "__code__", None)
    where = f" in {code.co_filename} line {code.co_firstlineno}" if code is not None else ""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '')}:{name}{where}"


def is_named(function: Function | str) -> bool:
    """True where no other function has the same name: it is defined within no other."""
    return isinstance(function, str) or "<" not in getattr(function, "__qualname__", "<")
