"""Who is told how far a call is, by the keyword ``progress``."""

from __future__ import annotations

from collections.abc import Callable

from batchpipe.running.progress import Progress, ProgressBar, Told, Unwatched, Watcher


def watching(progress: bool | Callable[[Progress], object] | None) -> Watcher:
    """True: stderr, as for the command. A function: that. False or None: nobody."""
    if progress is True:
        return ProgressBar()
    if progress is None or progress is False:
        return Unwatched()
    if not callable(progress):
        raise TypeError(f"progress must be True, False or a function, not {progress!r}")
    return Told(progress)
