"""Guessing ahead where few decode: the weights are read in any case, so some rows more cost little.

A guessed token is computed beside the last known one, and what the model draws behind each tells
how many of the guesses were right (speculative decoding; guesses by prompt lookup need no second
model). Knows chances and costs; who guesses, and how, is the `Drafter`'s own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.segment import Draft, Sequence
from batchpipe.planner.schedule.step import with_guesses

MOST_GUESSED = 8  # tokens behind one decode
MOST_MATCHED = 3
WORTH = 1.1  # tokens per second must gain so much: the cost model errs by some percent
HOPED_CHANCE = 0.9  # where not even guesses so good would pay, none is asked for
PRIOR_TRIALS = 4  # that went wrong before the first: nothing is believed before it is seen
REMEMBERED_TRIALS = 32  # fewer are noise, more are slow to see that a text has changed


@dataclass(frozen=True, slots=True)
class Guess:
    """What may follow a sequence, and how sure that is."""

    tokens: tuple[int, ...]  # at least one
    matched: int  # last tokens, up to `MOST_MATCHED`, that were followed by these before


class Drafter(Protocol):
    """Guesses how answers go on."""

    def guess(self, sequence: Sequence, most: int) -> Guess | None:
        """Up to ``most`` tokens that may come next; None where nothing suggests any."""

    def forget(self, sequence: Sequence) -> None:
        """The sequence has its answer."""


class Chance:
    """The share of trials that went well, old ones fading."""

    def __init__(self) -> None:
        self._well, self._trials = 0.0, float(PRIOR_TRIALS)

    def __float__(self) -> float:
        return self._well / self._trials

    def add(self, well: int, trials: int) -> None:
        """So many more trials, and how many of them went well."""
        fading = min(1.0, REMEMBERED_TRIALS / (self._trials + trials))
        self._well = (self._well + well) * fading
        self._trials = (self._trials + trials) * fading


@dataclass(frozen=True, slots=True)
class Bet:
    """What a step computes, takes and probably brings if guesses of some chance are computed."""

    least_chance: float  # of the guesses that are
    load: StepLoad
    seconds: float
    tokens: float  # drawn and kept

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Level:
    """Guesses of one chance: that they, and all before them, are right."""

    chance: float
    tokens: int
    sequences: int  # of them, those that are the first behind their decode


def best_bet(cost: StepCost, load: StepLoad, levels: Iterable[Level]) -> Bet:
    """The bet with the most tokens per second; without any guess unless that gains `WORTH`."""
    best = nothing = Bet(2.0, load, cost.seconds(load), load.drawn)
    tokens = sequences = 0
    gained = 0.0
    for level in sorted(levels, key=lambda level: -level.chance):
        tokens += level.tokens
        sequences += level.sequences
        gained += level.chance * level.tokens
        more = with_guesses(load, tokens)
        seconds = cost.seconds(more) + sequences * cost.apart_seconds
        bet = Bet(level.chance, more, seconds, load.drawn + gained)
        if bet.rate > max(best.rate, nothing.rate * WORTH):
            best = bet
    return best


def even_bet(cost: StepCost, load: StepLoad, chance: float) -> Bet:
    """The best bet where behind every decode each next guess has the same chance."""
    count = load.decodes
    if not count or not chance:
        return best_bet(cost, load, ())
    return best_bet(
        cost,
        load,
        [Level(chance**nth, count, count if nth == 1 else 0) for nth in range(1, MOST_GUESSED + 1)],
    )


class Speculation:
    """Which guesses a step computes: those for which the cost model says that they pay.

    Guesses are compared with what is drawn whether they were computed or not, so their chance is
    known before the first is paid for, and again once it has changed.

    Args:
        cost: what a step costs
        drafter: who guesses
    """

    def __init__(self, cost: StepCost, drafter: Drafter) -> None:
        self._cost = cost
        self._drafter = drafter
        self._chances = [Chance() for _ in range(MOST_MATCHED + 1)]  # by tokens matched
        self._first = Chance()  # that a decode has a guess, and its first token is right
        self._guesses: dict[int, Guess | None] = {}  # of this step, by prompt

    @property
    def expected_chance(self) -> float:
        """That the next token of a decode is guessed, as far as this run knows; 0 at its start."""
        return float(self._first)

    def drafts(
        self, decoding: Decoding, load: StepLoad, left: Callable[[Sequence], int]
    ) -> dict[int, Draft]:
        """The guesses to compute behind decodes that are alone in their step, by prompt.

        Args:
            decoding: the decodes
            load: theirs
            left: tokens that an answer may still get, one of which it gets in any case
        """
        self._guesses = {}
        if even_bet(self._cost, load, HOPED_CHANCE).load is load:
            return {}
        for index, sequence in decoding.sequences.items():
            most = min(MOST_GUESSED, left(sequence) - 1)
            self._guesses[index] = self._drafter.guess(sequence, most) if most > 0 else None
        bet = best_bet(self._cost, load, self._levels())
        drafts: dict[int, Draft] = {}
        for index, guess in self._guesses.items():
            if guess is None:
                continue
            surer = takewhile(lambda chance: chance >= bet.least_chance, self._falling(guess))
            tokens = guess.tokens[: sum(1 for _ in surer)]
            if tokens:
                drafts[index] = Draft(decoding.length(decoding.sequences[index]), tokens)
        return drafts

    def learn(self, sequence: Sequence, tokens: list[int]) -> None:
        """The sequence went on with these tokens."""
        if sequence.index not in self._guesses:
            return
        guess = self._guesses.pop(sequence.index)
        if guess is None:
            self._first.add(0, 1)
            return
        compared = min(len(guess.tokens), len(tokens))
        pairs = zip(guess.tokens, tokens, strict=False)
        right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._first.add(min(right, 1), 1)
        self._chances[guess.matched].add(right, min(right + 1, compared))

    def forget(self, sequence: Sequence) -> None:
        """The sequence has its answer."""
        self._drafter.forget(sequence)

    def _falling(self, guess: Guess) -> list[float]:
        """The chance of each guessed token, that it and all before it are right."""
        chance = float(self._chances[guess.matched])
        return [chance**nth for nth in range(1, len(guess.tokens) + 1)]

    def _levels(self) -> list[Level]:
        """This step's guesses by their chance."""
        counts: dict[tuple[int, int], int] = {}  # by tokens matched and tokens guessed
        for guess in self._guesses.values():
            if guess is not None:
                key = guess.matched, len(guess.tokens)
                counts[key] = counts.get(key, 0) + 1
        levels: list[Level] = []
        for matched in {matched for matched, _ in counts}:
            chance = float(self._chances[matched])
            for nth in range(1, MOST_GUESSED + 1):
                count = sum(
                    number
                    for (each, length), number in counts.items()
                    if each == matched and length >= nth
                )
                if count:
                    levels.append(Level(chance**nth, count, count if nth == 1 else 0))
        return levels
