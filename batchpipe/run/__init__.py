"""From a job to its results: planned, executed and written, with everything that may go wrong.

The package is also the function ``batchpipe.run``, documented at `batchpipe.api.jobs.run`: a
package's functions and its subpackages share their names, and users are to have this one.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Function(ModuleType):
    """This package, which can be called."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        from batchpipe.api.jobs import run

        return run(*given, **named)


sys.modules[__name__].__class__ = _Function
