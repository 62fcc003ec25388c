"""Speculation that the cost model has no say in: every guess is computed."""

from __future__ import annotations

from collections.abc import Callable

from small_jobs import small_cost

from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.segment import Draft, Sequence
from batchpipe.planner.schedule.speculation import MOST_GUESSED, Drafter, Speculation


class Always(Speculation):
    """Computes all that the drafter guesses, however seldom that is right."""

    def __init__(self, drafter: Drafter, most: int = MOST_GUESSED) -> None:
        super().__init__(small_cost(), drafter)
        self._always, self._most = drafter, most

    def drafts(
        self, decoding: Decoding, load: StepLoad, left: Callable[[Sequence], int]
    ) -> dict[int, Draft]:
        drafts = {}
        for index, sequence in decoding.sequences.items():
            most = min(self._most, left(sequence) - 1)
            guess = self._always.guess(sequence, most) if most > 0 else None
            if guess is not None:
                drafts[index] = Draft(decoding.length(sequence), guess.tokens)
        return drafts
