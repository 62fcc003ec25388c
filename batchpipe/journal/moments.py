"""The moments between two durable actions, by name, so that tests can end the process there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

# A commit puts its file, then the manifest that names it, then removes what is named no more.
COMMITS = ("creation", "flush", "compaction", "repair", "finish", "recovery")
POINTS = ("before its file", "before its manifest", "after its manifest", "after a removal")
MOMENTS = (
    *(f"{commit}: {point}" for commit, point in product(COMMITS, POINTS)),
    "sweep: before a removal",
    "discard: before a removal",
    "discard: before the manifest goes",
    "discard: after the manifest went",
)

hook: Callable[[str], None] | None = None  # called with the name of each moment


def reached(moment: str) -> None:
    """Nothing happens, unless a test or a benchmark has set `hook`."""
    assert moment in MOMENTS, moment
    if hook is not None:
        hook(moment)
