"""The models that are in memory, here or on workers; here they are stepped in turn."""

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

    @property
    def waiting(self) -> int:
        """Of these, the ones that it does not run yet."""

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


class Residents(Protocol):
    """Who has models in memory and asks them what comes."""

    @property
    def loads(self) -> int:
        """Models that have come into memory, one as often as it did."""

    @property
    def load_seconds(self) -> float:
        """That this took."""

    def bring(self, names: Iterable[str]) -> None:
        """These models are in memory and no others; what must go has gone before another comes.

        Raises:
            ConfigError: there is no room for them
            StoppedEarly: nobody can load them any more
        """

    def __contains__(self, name: str) -> bool:
        """True where the model takes prompts."""

    def submit(self, name: str, requests: Sequence[Request]) -> None:
        """The model will answer these."""

    def expect(self, name: str, head: TokenIds, *, more: bool) -> None:
        """Further prompts to the model will begin with these tokens, or no more."""

    def forget(self, name: str, ticket: int) -> None:
        """One prompt less than announced follows this one."""

    def step(self) -> list[tuple[int, Answer]]:
        """The models have gone on for a moment; the answers that came, with their tickets."""

    def spent(self) -> Spent:
        """What all models have done so far, gone or not."""

    def close(self) -> None:
        """No model is in memory."""


class OwnResidents:
    """In this process: models come into memory and leave it."""

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

    def submit(self, name: str, requests: Sequence[Request]) -> None:
        """They join the model's running batch within a few steps."""
        self._live[name].submit(requests)

    def expect(self, name: str, head: TokenIds, *, more: bool) -> None:
        """Further prompts to the model will begin with these tokens, or no more."""
        self._live[name].expect(head, more=more)

    def forget(self, name: str, ticket: int) -> None:
        """One prompt less than announced follows this one."""
        self._live[name].forget(ticket)

    @property
    def unfinished(self) -> int:
        """Prompts that they have still to answer."""
        return sum(live.unfinished for live in self._live.values())

    @property
    def waiting(self) -> int:
        """Of these, the ones that do not run yet."""
        return sum(live.waiting for live in self._live.values())

    def step(self) -> list[tuple[int, Answer]]:
        """Each of them with prompts has taken a step; the answers that these finished."""
        return [answer for live in self._live.values() if live.unfinished for answer in live.step()]

    def spent(self) -> Spent:
        """Tokens and steps of all models, gone or not."""
        counts = (live.spent().counts for live in self._live.values())
        return Spent(sum(counts, self._spent_before))

    def _retire(self, name: str) -> None:
        live = self._live.pop(name)
        self._spent_before += live.spent().counts
        live.close()
