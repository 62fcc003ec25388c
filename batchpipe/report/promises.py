"""What the plans promised beside what was measured, over the sessions that came to their ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchpipe.running.session.record import Session

MEASURED_FROM = {  # what a plan promises -> what a timeline's last point measures
    "seconds of answering": ("expected_seconds", "seconds"),
    "prompt tokens to compute": ("computed_tokens", "prefill_tokens"),
    "answer tokens": ("expected_output_tokens", "decode_tokens"),
}


@dataclass(frozen=True, slots=True)
class Promise:
    """One figure, twice."""

    name: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """By how much of the measured figure the prediction was off; more is positive."""
        return self.predicted / self.measured - 1 if self.measured else 0.0


def promises(sessions: Sequence[Session]) -> tuple[Promise, ...]:
    """Sums over the sessions that ended as planned: of one that was stopped, no part is promised.

    A figure that some of them was not told, such as seconds on an unknown machine, is left out.
    """
    ended = [session for session in sessions if session.is_done and session.points]
    found = []
    for name, (promised, measured) in MEASURED_FROM.items():
        predicted = [float(session.facts.get(promised) or 0) for session in ended]
        if predicted and all(predicted):
            total = sum(float(getattr(session.points[-1], measured)) for session in ended)
            found.append(Promise(name, sum(predicted), total))
    return tuple(found)
