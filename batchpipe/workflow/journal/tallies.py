"""What each step of a run has done so far, over all of its sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

BY_STEP = "by_step"  # among the journal's facts


@dataclass(slots=True)
class StepTally:
    """Rows and tokens of one step; tokens of a prompt count for every row as if alone."""

    rows: int = 0  # that have their values, or why there are none
    calls: int = 0  # of a model, a database, a host or a function's rows
    collapsed: int = 0  # rows that another's call answered
    failed: int = 0  # by their own fault
    seconds: float = 0.0  # that its calls took, one behind the other
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them, not computed
    completion_tokens: int = 0


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
        return {name: {**each, "seconds": round(each["seconds"], 3)} for name, each in told.items()}

    def total(self, figure: str) -> int:
        """Of all steps."""
        return sum(int(getattr(tally, figure)) for tally in self._steps.values())
