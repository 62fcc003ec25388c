"""Python's garbage collection, out of the way while a run starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


def own_the_process() -> None:
    """What lives is left alone, here and after each pause: this process does nothing but the run.

    Never in a library: what others drop later would stay.
    """
    if find_spec("triton") is None:  # at the end it would tell of leaks, by the page
        gc.freeze()


@contextmanager
def collection_paused() -> Iterator[None]:
    """No cycles are looked for inside; afterwards, in our own process, what lives is left alone.

    Importing torch and transformers makes a million objects that stay. Going through them again and
    again, and once more when the process ends, took 1.8 s of a run of 7.4 (EPYC).
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            if gc.get_freeze_count():  # by `own_the_process`
                gc.freeze()
            gc.enable()
