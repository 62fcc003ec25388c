"""The line of one worker: prompts that wait for it, and those that it has begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from batchpipe.planner.shards.beginnings import Beginnings, Names


@dataclass(frozen=True, slots=True, eq=False)
class RoutedPrompt:
    """A prompt on its way to a worker."""

    ticket: int  # no other has it
    model: str
    names: Names  # of its blocks
    seconds: float  # modelled, where nothing of it is known
    token_seconds: float  # of computing one of its tokens
    follows: int | None = None  # ticket of the prompt as which, and its answer, it begins
    feeds: int = 0  # prompts that will follow it
    deaths: int = 0  # of workers that had begun it


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """What a worker begins now."""

    prompts: tuple[RoutedPrompt, ...] = ()
    is_stolen: bool = False


@dataclass(slots=True, eq=False)
class Line:
    """The prompts of one worker, and the models that it has."""

    models: frozenset[str] = frozenset()
    waiting: dict[int, RoutedPrompt] = field(default_factory=dict)
    begun: dict[int, RoutedPrompt] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)  # of all of them
    total_seconds: float = 0.0
    beginnings: Beginnings = field(default_factory=Beginnings)
    has_suspects: bool = False  # beside which nothing else is begun

    def in_order(self) -> list[RoutedPrompt]:
        """What waits: who follows somebody first, then those together that begin alike."""
        return sorted(self.waiting.values(), key=lambda each: (each.follows is None, each.names))

    def known_seconds(self, prompt: RoutedPrompt) -> float:
        """Of the prompt's computing, what need not be done here."""
        return self.beginnings.known_tokens(prompt.names) * prompt.token_seconds

    def has_waiting(self, models: Collection[str]) -> bool:
        """True where prompts to one of these models wait."""
        return any(each.model in models for each in self.waiting.values())

    def add(self, prompt: RoutedPrompt) -> None:
        """The prompt waits here."""
        seconds = max(0.0, prompt.seconds - self.known_seconds(prompt))
        self.waiting[prompt.ticket], self.seconds[prompt.ticket] = prompt, seconds
        self.total_seconds += seconds
        self.beginnings.add(prompt.names)

    def leave(self, prompt: RoutedPrompt, heads: Counter[int]) -> None:
        """It is here no more, whether it has begun or not."""
        self.waiting.pop(prompt.ticket, None)
        self.begun.pop(prompt.ticket, None)
        self.beginnings.leave(prompt.names, heads)
        self.total_seconds -= self.seconds.pop(prompt.ticket)
        self.has_suspects = self.has_suspects and bool(self.begun)
        if not self.seconds:
            self.total_seconds = 0.0  # nothing is left of rounding

    def begin_half(self, least: int) -> tuple[RoutedPrompt, ...]:
        """Half of the waiting work has begun, and so many prompts at least if there are so many."""
        half = sum(self.seconds[ticket] for ticket in self.waiting) / 2
        taken: list[RoutedPrompt] = []
        for each in self.in_order():
            if len(taken) >= least and half <= 0:
                break
            half -= self.seconds[each.ticket]
            taken.append(each)
        self.begin(taken)
        return tuple(taken)

    def begin(self, prompts: Iterable[RoutedPrompt]) -> None:
        """These of the waiting have begun."""
        for each in prompts:
            self.begun[each.ticket] = self.waiting.pop(each.ticket)
