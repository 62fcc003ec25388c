"""Which models are in memory together, and in which order they come."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Phase = tuple[str, ...]  # models


class Phases:
    """The phases of a run: as planned, then whatever rows still wait for."""

    def __init__(self, planned: Collection[Phase]) -> None:
        self._planned = list(planned) or [()]
        self._next = 0

    def next(self, wanted: Mapping[str, int]) -> Phase:
        """The models to bring; ``wanted`` tells how many questions wait for each."""
        self._next += 1
        if self._next <= len(self._planned):
            return self._planned[self._next - 1]
        return max(self._planned, key=lambda phase: sum(wanted.get(name, 0) for name in phase))

    @property
    def has_more(self) -> bool:
        """True where a planned phase is still to come."""
        return self._next < len(self._planned)
