"""What each step of a run has done so far, over all of its sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from batchpipe.planner.query.cost import MovingAverage

BY_STEP = "by_step"  # among the journal's facts


@dataclass(slots=True)
class StepTally:
    """Rows and tokens of one step; tokens of a prompt count for every row as if alone."""

    rows: int = 0  # that have their values, or why there are none
    calls: int = 0  # of a model, a database, a host or a function's rows
    collapsed: int = 0  # rows that another's call answered
    failed: int = 0  # by their own fault
    seconds: float = 0.0  # that its calls took, one behind the other
    call_seconds: float = 0.0  # that one of the latest calls took, in the mean
    timed_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them, not computed
    completion_tokens: int = 0

    def took(self, seconds: float) -> None:
        """Another call has ended."""
        average = MovingAverage(self.call_seconds if self.timed_calls else seconds)
        average.seen = max(0, self.timed_calls - 1)  # the first is what is expected
        average.add(seconds)
        self.call_seconds, self.timed_calls = average.mean, self.timed_calls + 1
        self.seconds += seconds


class Tallies:
    """The tallies of all steps, in the graph's order."""

    def __init__(self, steps: Iterable[str], facts: Mapping[str, Any]) -> None:
        known = facts.get(BY_STEP, {})
        self._steps = {name: StepTally(**known.get(name, {})) for name in steps}

    def __getitem__(self, step: str) -> StepTally:
        return self._steps[step]

    def items(self) -> Iterable[tuple[str, StepTally]]:
        """Each step's, in order."""
        return self._steps.items()

    def as_json(self) -> dict[str, dict[str, Any]]:
        """By step, its figures."""
        told = {name: asdict(tally) for name, tally in self._steps.items()}
        rounded = (("seconds", 3), ("call_seconds", 6))
        return {
            name: each | {figure: round(each[figure], places) for figure, places in rounded}
            for name, each in told.items()
        }

    def total(self, figure: str) -> int:
        """Of all steps."""
        return sum(int(getattr(tally, figure)) for tally in self._steps.values())
