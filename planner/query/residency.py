"""The search for the loads of models that let all stages run and take the least time.

Stages and models are bits of whole numbers. A state is what is done and what is in memory. Whatever
can run does at once, for that never makes anything later; a model is loaded only when a stage of
its can run, and pushes out no more than it must.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations


@dataclass(frozen=True, slots=True)
class Load:
    """A model is loaded, and these are in memory then."""

    model: int
    resident: int  # bits


@dataclass(frozen=True)
class Residency:
    """Stages, models and the memory that the models share."""

    model_of: tuple[int, ...]  # [stages]
    before: tuple[int, ...]  # bits of the stages that each awaits  # [stages]
    memory_bytes: tuple[int, ...]  # [models]
    load_seconds: tuple[float, ...]  # [models]
    device_bytes: int
    _fitting: dict[tuple[int, int], tuple[int, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        done = 0
        while found := [each for each in self._left(done) if self._is_ready(each, done)]:
            done |= sum(1 << each for each in found)
        if done != self.everything:
            raise ValueError(f"stages {self._left(done)} await one another in a circle")

    @cached_property
    def everything(self) -> int:
        """All stages."""
        return (1 << len(self.model_of)) - 1

    def run(self, done: int, resident: int) -> list[int]:
        """The stages that can run with these models, each after those that it awaits."""
        ran: list[int] = []
        waiting = [each for each in self._left(done) if resident >> self.model_of[each] & 1]
        while found := [each for each in waiting if self._is_ready(each, done)]:
            ran += found
            done |= sum(1 << each for each in found)
            waiting = [each for each in waiting if not done >> each & 1]
        return ran

    def after(self, done: int, load: Load) -> int:
        """What is done when nothing more can run after this load."""
        return done | sum(1 << each for each in self.run(done, load.resident))

    def loads(self, done: int, resident: int) -> Iterator[Load]:
        """The loads that let something run, with each choice of what they push out."""
        ready = {self.model_of[each] for each in self._left(done) if self._is_ready(each, done)}
        needed = sum(1 << model for model in {self.model_of[each] for each in self._left(done)})
        for model in sorted(ready):
            # What no stage needs any more is pushed out first: it stays only where there is room.
            for others in self._choices(model, resident & needed):
                held = others | 1 << model
                for bit in range(len(self.memory_bytes)):
                    idle = resident & ~needed & 1 << bit
                    held |= idle if self._fits(held | idle) else 0
                yield Load(model, held)

    def _choices(self, model: int, resident: int) -> tuple[int, ...]:
        """The largest sets of resident models beside which the model has room."""
        known = self._fitting.get((model, resident))
        if known is not None:
            return known
        bits = [bit for bit in range(len(self.memory_bytes)) if resident >> bit & 1]
        largest: list[int] = []
        for size in range(len(bits), -1, -1):
            for some in combinations(bits, size):
                kept = sum(1 << bit for bit in some)
                fits = self._fits(kept | 1 << model)
                if fits and not any(kept & more == kept for more in largest):
                    largest.append(kept)
        self._fitting[model, resident] = tuple(largest)
        return tuple(largest)

    def _fits(self, resident: int) -> bool:
        sizes = (size for bit, size in enumerate(self.memory_bytes) if resident >> bit & 1)
        return sum(sizes) <= self.device_bytes

    def _left(self, done: int) -> list[int]:
        return [each for each in range(len(self.model_of)) if not done >> each & 1]

    def _is_ready(self, stage: int, done: int) -> bool:
        return self.before[stage] & ~done == 0


Search = Callable[[Residency], list[Load]]


def cheapest(residency: Residency) -> list[Load]:
    """The loads that take the least time: shortest paths over (done set, resident models)."""
    best: dict[tuple[int, int], float] = {(0, 0): 0.0}
    came: dict[tuple[int, int], tuple[tuple[int, int], Load]] = {}
    queue: list[tuple[float, int, int]] = [(0.0, 0, 0)]
    while queue:
        seconds, done, resident = heapq.heappop(queue)
        if done == residency.everything:
            return _path(came, (done, resident))
        if seconds > best[done, resident]:
            continue
        for load in residency.loads(done, resident):
            state = residency.after(done, load), load.resident
            total = seconds + residency.load_seconds[load.model]
            if total < best.get(state, float("inf")):
                best[state] = total
                came[state] = (done, resident), load
                heapq.heappush(queue, (total, *state))
    raise AssertionError("every stage can run some time")


def _path(
    came: dict[tuple[int, int], tuple[tuple[int, int], Load]], state: tuple[int, int]
) -> list[Load]:
    loads: list[Load] = []
    while state in came:
        state, load = came[state]
        loads.append(load)
    return loads[::-1]


def pilot(residency: Residency) -> list[Load]:
    """Loads that take little time: each is the one from which `greedy` ends soonest."""
    loads: list[Load] = []
    done = resident = 0
    while done != residency.everything:
        load = min(
            residency.loads(done, resident),
            key=lambda each: (
                residency.load_seconds[each.model]
                + sum(
                    residency.load_seconds[later.model]
                    for later in greedy(residency, residency.after(done, each), each.resident)
                )
            ),
        )
        loads.append(load)
        done, resident = residency.after(done, load), load.resident
    return loads


def greedy(residency: Residency, done: int = 0, resident: int = 0) -> list[Load]:
    """Loads from here to the end: each runs most stages for its time before the next.

    Best is a model that need not come again.
    """
    loads: list[Load] = []
    while done != residency.everything:
        load = max(residency.loads(done, resident), key=lambda each: _worth(residency, done, each))
        loads.append(load)
        done, resident = residency.after(done, load), load.resident
    return loads


def _worth(residency: Residency, done: int, load: Load) -> tuple[bool, float, float]:
    after = residency.after(done, load)
    left = residency.everything & ~after
    again = any(
        left >> stage & 1 and model == load.model for stage, model in enumerate(residency.model_of)
    )
    ran = (after & ~done).bit_count() / max(residency.load_seconds[load.model], 1e-9)
    kept = sum(
        residency.load_seconds[model]
        for model in range(len(residency.memory_bytes))
        if load.resident >> model & 1
    )
    return not again, ran, kept
