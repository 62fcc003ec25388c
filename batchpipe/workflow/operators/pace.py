"""When a host may be asked again: its requests per second, and the rest that it asks for."""

from __future__ import annotations

import time
from threading import Event, Lock


class Pace:
    """Turns of each host's requests, shared by all threads and steps that ask it."""

    def __init__(self, closing: Event) -> None:
        self._closing = closing
        self._lock = Lock()
        self._free_at: dict[str, float] = {}  # host -> when its next request may go

    def wait(self, host: str, per_second: float | None) -> None:
        """It is this request's turn; or ``closing`` is set."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._free_at.get(host, now))
            if per_second is not None:
                self._free_at[host] = turn + 1 / per_second
        self._closing.wait(turn - now)

    def hold(self, host: str, seconds: float) -> None:
        """The host is left alone for so long, save for requests whose turn was given before."""
        with self._lock:
            free_at = time.monotonic() + seconds
            self._free_at[host] = max(free_at, self._free_at.get(host, free_at))
