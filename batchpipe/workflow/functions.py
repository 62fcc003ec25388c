"""The functions of `python` steps: those given, or imported by ``module:function``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from batchpipe.rows.words import one_line
from batchpipe.workflow.names import Fault

Function = Callable[[list[dict[str, Any]]], Any]


def imported(function: Function | str) -> Function:
    """The function itself. Modules are also looked for in the working directory.

    Raises:
        Fault: there is no such module or function
    """
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    here = os.getcwd()
    sys.path.append(here)
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:  # a module may raise anything while it is imported
        cause = one_line(f"{type(error).__name__}: {error}")
        raise Fault(f"python: the module {module} cannot be imported: {cause}", "python") from error
    finally:
        sys.path.remove(here)
    if found is None:
        raise Fault(f"python: the module {module} has no {name}", "python")
    if not callable(found):
        raise Fault(f"python: {function} is no function but {type(found).__name__}", "python")
    return found  # type: ignore[no-any-return]


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
