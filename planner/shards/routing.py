"""Which worker gets which prompt, where prompts come one by one to workers with resident models.

A prompt waits in the line of one worker that has its model, until that one can begin it: as long
as it waits, a worker without work may take it over. What a worker had begun when it died is
suspect: it is tried again in ever smaller company, and given up where a third one dies of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from batchpipe.planner.request import TokenIds
from batchpipe.planner.shards.beginnings import Names, names_of
from batchpipe.planner.shards.board import MOST_FAILURES
from batchpipe.planner.shards.line import Line, Portion, RoutedPrompt

LEAST_PROMPTS = 16  # that a worker is given at once, where so many wait
SMALLER = 8  # times: suspects that are tried together again
AFFINITY_SLACK = 1.0  # of the work of who has least: by so much more may who has the beginning have


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the KV of an answered prompt is kept."""

    worker: int
    model: str
    followers: int


class Router:
    """The lines of so many workers, none of which is there yet."""

    def __init__(self, workers: int) -> None:
        self._lines = [Line() for _ in range(workers)]
        self._at: dict[int, int] = {}  # the worker in whose line each prompt is
        self._homeless: dict[int, RoutedPrompt] = {}  # no worker has their model
        self._suspects: list[tuple[RoutedPrompt, ...]] = []  # that may be begun together
        self._sources: dict[int, _Source] = {}  # by ticket, answered prompts that others follow
        self._expected: set[Names] = set()  # heads
        self._heads: Counter[int] = Counter()  # by block, how many of them have it
        self.duplicated_tokens = 0  # that were in one worker's line and came to another's

    @property
    def missing(self) -> set[str]:
        """Models that prompts wait for and no worker has."""
        there = frozenset().union(*(line.models for line in self._lines))
        waiting = {each.model for each in self._homeless.values()}
        return (waiting | {batch[0].model for batch in self._suspects}) - there

    def waiting(self, worker: int, model: str) -> bool:
        """True where prompts to the model wait in the worker's line."""
        return self._lines[worker].has_waiting((model,))

    def has_begun(self, worker: int) -> bool:
        """True where answers of the worker are to come."""
        return bool(self._lines[worker].begun)

    def forget(self, ticket: int) -> int | None:
        """One prompt less than announced follows this one; returns who keeps its KV."""
        source = self._sources.pop(ticket, None)
        if source is None:
            return None
        if source.followers > 1:
            self._sources[ticket] = replace(source, followers=source.followers - 1)
        return source.worker

    def expect(self, model: str, head: TokenIds, *, more: bool) -> None:
        """Prompts that begin so are still to come, or not any more."""
        names = names_of(model, head)
        if more == (names in self._expected):
            return
        self._expected ^= {names}
        if more:
            self._heads.update(names)
            return
        self._heads.subtract(names)
        ended = [name for name in names if self._heads[name] <= 0]
        for name in ended:
            del self._heads[name]
        for line in self._lines:
            line.beginnings.forget_unused(ended)

    def settle(self, worker: int, models: Collection[str]) -> None:
        """The worker has these models and no others; prompts to others go elsewhere."""
        line = self._lines[worker]
        line.models = frozenset(models)
        both = (*line.waiting.values(), *line.begun.values())
        moving = [each for each in both if each.model not in line.models]
        for each in moving:
            self._leave(each)
        self._drop_sources(worker, line.models)
        homeless, self._homeless = self._homeless, {}
        for each in (*homeless.values(), *moving):
            self.add(each)

    def died(self, worker: int) -> list[RoutedPrompt]:
        """The worker is no more; returns what it dies of for the last time, which is given up."""
        line, self._lines[worker] = self._lines[worker], Line()
        for ticket in line.seconds:
            del self._at[ticket]
        self._drop_sources(worker, ())
        begun = [replace(each, deaths=each.deaths + 1) for each in line.begun.values()]
        self._suspects += _companies([each for each in begun if each.deaths < MOST_FAILURES])
        for each in line.waiting.values():
            self.add(each)
        return [each for each in begun if each.deaths >= MOST_FAILURES]

    def add(self, prompt: RoutedPrompt) -> None:
        """The prompt is in the line of who will have answered it soonest, as far as is known.

        That is who keeps the KV of what it follows. Else who has the longest part of its beginning,
        unless that one's work is more than that of who has least, and than computing it again.
        """
        able = [n for n, line in enumerate(self._lines) if prompt.model in line.models]
        if not able:
            self._homeless[prompt.ticket] = prompt
            return
        source = None if prompt.follows is None else self._sources.get(prompt.follows)
        self._put(self._nearest(prompt, able) if source is None else source.worker, prompt)

    def take(self, worker: int) -> Portion:
        """What the worker is to begin beside what it has begun: of its own half of what waits.

        Where nothing waits, of another's, where both are done sooner so.
        """
        line = self._lines[worker]
        if line.has_suspects:
            return Portion()
        suspects = next((some for some in self._suspects if some[0].model in line.models), None)
        if suspects is not None:
            return self._apart(worker, suspects) if not line.begun else Portion()
        is_stolen = not line.waiting and self._steal(worker)
        return Portion(line.begin_half(LEAST_PROMPTS), is_stolen)

    def answered(self, ticket: int) -> RoutedPrompt | None:
        """The prompt has its answer; None where it had that before."""
        worker = self._at.get(ticket)
        if worker is None:
            return None
        line = self._lines[worker]
        prompt = line.begun.get(ticket) or line.waiting[ticket]
        self._leave(prompt)
        if prompt.feeds:
            self._sources[ticket] = _Source(worker, prompt.model, prompt.feeds)
        return prompt

    # ---- lines -----------------------------------------------------------------------------

    def _nearest(self, prompt: RoutedPrompt, able: list[int]) -> int:
        lines = self._lines
        known = {n: lines[n].known_seconds(prompt) for n in able}
        least = min(able, key=lambda n: lines[n].total_seconds)
        near = max(able, key=lambda n: (known[n], -lines[n].total_seconds))
        more = lines[near].total_seconds - lines[least].total_seconds
        spared = known[near] - known[least]
        return near if more <= spared + AFFINITY_SLACK * lines[least].total_seconds else least

    def _put(self, worker: int, prompt: RoutedPrompt) -> None:
        here, *there = (
            line.beginnings.known_tokens(prompt.names)
            for line in (self._lines[worker], *self._lines)
        )
        self.duplicated_tokens += max(there) - here
        self._lines[worker].add(prompt)
        self._at[prompt.ticket] = worker

    def _leave(self, prompt: RoutedPrompt) -> None:
        self._lines[self._at.pop(prompt.ticket)].leave(prompt, self._heads)

    def _apart(self, worker: int, suspects: tuple[RoutedPrompt, ...]) -> Portion:
        """These are begun, and nothing beside them: whoever dies then has died of one of them."""
        self._suspects.remove(suspects)
        line = self._lines[worker]
        for each in suspects:
            self._put(worker, each)
        line.begin(suspects)
        line.has_suspects = True
        return Portion(suspects)

    def _steal(self, worker: int) -> bool:
        """What waits for another is this worker's, as long as both are done sooner so."""
        thief = self._lines[worker]
        owners = [line for line in self._lines if line.has_waiting(thief.models)]
        if not owners:
            return False
        owner = max(owners, key=lambda line: line.total_seconds)
        for prompt in reversed(owner.in_order()):
            seconds = prompt.seconds - thief.known_seconds(prompt)
            if thief.total_seconds + seconds >= owner.total_seconds:
                break
            if prompt.model in thief.models and prompt.follows not in self._sources:
                self._leave(prompt)
                self._put(worker, prompt)
        return bool(thief.waiting)

    def _drop_sources(self, worker: int, models: Collection[str]) -> None:
        gone = [
            ticket
            for ticket, source in self._sources.items()
            if source.worker == worker and source.model not in models
        ]
        for ticket in gone:
            del self._sources[ticket]


def _companies(suspects: Iterable[RoutedPrompt]) -> list[tuple[RoutedPrompt, ...]]:
    """Those that may be begun together: an eighth of those of one model, then each alone."""
    found: list[tuple[RoutedPrompt, ...]] = []
    by_model: dict[str, list[RoutedPrompt]] = {}
    for each in suspects:
        by_model.setdefault(each.model, []).append(each)
    for some in by_model.values():
        size = max(1, len(some) // SMALLER) if some[0].deaths == 1 else 1
        found += [tuple(some[at : at + size]) for at in range(0, len(some), size)]
    return found
