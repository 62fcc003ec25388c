"""How long the parts of a program take, none of them inside another."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable


class Stopwatch:
    """Counts every moment to one part: the one that began last and has not ended.

    For one thread. ``turns`` is how often it was looked at.
    """

    def __init__(self, outside: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.turns = 0
        self._clock = clock
        self._parts = [outside]
        self._since = clock()

    def begin(self, part: str) -> None:
        """From now on time is this part's, until it ends or another begins inside."""
        self.turn()
        self._parts.append(part)

    def end(self) -> float:
        """Time is again the part's around it. Returns the seconds since the last turn."""
        seconds = self.turn()
        self._parts.pop()
        return seconds

    def turn(self) -> float:
        """All time up to now is counted. Returns the seconds since the last turn."""
        now = self._clock()
        passed = now - self._since
        self.seconds[self._parts[-1]] += passed
        self._since = now
        self.turns += 1
        return passed
