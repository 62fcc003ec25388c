"""The moments between two durable actions, by name, so that tests can end the process there."""

from __future__ import annotations

from collections.abc import Callable

# A commit puts its file, if it has one, then the manifest, then removes what that names no more.
MOMENTS = (
    "creation: before its manifest",
    "creation: after its manifest",
    "flush: before its file",
    "flush: before its manifest",
    "flush: after its manifest",
    "flush: after a removal",
    "compaction: before its file",
    "compaction: before its manifest",
    "compaction: after its manifest",
    "compaction: after a removal",
    "repair: before its file",
    "repair: before its manifest",
    "repair: after its manifest",
    "repair: after a removal",
    "finish: before its file",
    "finish: before its manifest",
    "finish: after its manifest",
    "recovery: before its manifest",
    "recovery: after its manifest",
    "recovery: after a removal",
    "sweep: before a removal",
)

hook: Callable[[str], None] | None = None  # called with the name of each moment


def reached(moment: str) -> None:
    """Nothing happens, unless a test or a benchmark has set `hook`."""
    assert moment in MOMENTS, moment
    if hook is not None:
        hook(moment)
