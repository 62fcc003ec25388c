"""The models that are in memory, stepped in turn; what a model is, while it takes prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from batchpipe.engine.answer import Answer
from batchpipe.planner.request import TokenIds
from batchpipe.planner.schedule.counts import Counts
from batchpipe.running.engines import Spent

if TYPE_CHECKING:
    from batchpipe.running.live import Request  # torch


class LiveModel(Protocol):
    """A model in memory that takes prompts while it answers others."""

    @property
    def unfinished(self) -> int:
        """Prompts submitted and not answered."""

    def submit(self, requests: Sequence[Request]) -> None:
        """They join the running batch within a few steps."""

    def step(self) -> list[tuple[int, Answer]]:
        """One forward pass; the answers that it finished, with their tickets."""

    def expect(self, head: TokenIds, *, more: bool) -> None:
        """Further prompts will begin with these tokens, or no more."""

    def forget(self, ticket: int) -> None:
        """No more prompts will follow this one."""

    def spent(self) -> Spent:
        """What it has done so far."""

    def close(self) -> None:
        """Its memory is free."""


class Residents:
    """Models come into memory and leave it; what they did is counted also when they are gone."""

    def __init__(self, opening: Callable[[str, float], LiveModel]) -> None:
        self._opening = opening  # of a name, with a share of the free memory
        self._live: dict[str, LiveModel] = {}
        self._spent_before = Counts()
        self.loads = 0
        self.load_seconds = 0.0

    def bring(self, names: Iterable[str]) -> None:
        """These models are in memory and no others; what must go has gone before another comes."""
        wanted = tuple(names)
        for name in [name for name in self._live if name not in wanted]:
            self._retire(name)
        coming = [name for name in wanted if name not in self._live]
        for nth, name in enumerate(coming):
            began = time.perf_counter()
            self._live[name] = self._opening(name, 1 / (len(coming) - nth))
            self.loads += 1
            self.load_seconds += time.perf_counter() - began

    def close(self) -> None:
        """No model is in memory."""
        self.bring(())

    def __contains__(self, name: str) -> bool:
        return name in self._live

    def __getitem__(self, name: str) -> LiveModel:
        return self._live[name]

    @property
    def unfinished(self) -> int:
        """Prompts that they have still to answer."""
        return sum(live.unfinished for live in self._live.values())

    def step(self) -> list[tuple[int, Answer]]:
        """Each of them with prompts has taken a step; the answers that these finished."""
        return [answer for live in self._live.values() if live.unfinished for answer in live.step()]

    def counts(self) -> Counts:
        """Of all models, gone or not."""
        return sum((live.spent().counts for live in self._live.values()), self._spent_before)

    def _retire(self, name: str) -> None:
        live = self._live.pop(name)
        self._spent_before += live.spent().counts
        live.close()
