"""Seconds: of asking a model, a database or a host, and of loading a model.

A model's come from its step cost and from tokens; what cannot be modelled is averaged as it runs.
Knows nothing of who awaits whom.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.query.estimate import Estimate

LOAD_BYTES_PER_SECOND = 2e9  # files in the page cache to a device: copies through host memory
START_SECONDS = 2.0  # of loading the smallest model: its code, its tokenizer, a first step
STEP_TOKENS = 2048

SQL_SECONDS = 1e-3  # of a query of which nothing is known: a round trip
SECONDS_OF_A_COST = 3.65e-6  # of PostgreSQL's unit of cost, as Halo has fitted it
HTTP_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class ModelHost:
    """A model on a machine, with the memory for keys that it has there."""

    cost: StepCost
    kv_tokens: int
    step_tokens: int = STEP_TOKENS


def asking_seconds(asked: Estimate, host: ModelHost) -> float:
    """How long the model takes for these prompts, all of which are known when it begins.

    Steps mix computing prompts with drawing answers, as many at once as the memory holds.
    """
    if asked.calls <= 0:
        return 0.0
    prompt, own, answer = (
        tokens / asked.calls
        for tokens in (asked.prompt_tokens, asked.computed_tokens, asked.output_tokens)
    )
    shared = prompt - own  # keys that others have computed
    room = max(host.kv_tokens - shared, 0.0) / max(own + answer, 1.0)
    at_once = min(asked.calls, max(1.0, room), host.step_tokens)
    tokens = asked.computed_tokens + asked.output_tokens
    steps = max(asked.output_tokens / at_once, tokens / host.step_tokens, answer, 1.0)
    drawing = asked.output_tokens / steps  # sequences, in the mean step
    prefill = asked.computed_tokens / steps
    load = StepLoad(
        tokens=max(1, round(prefill + drawing)),
        drawn=round(drawing),
        sequences=max(1, round(drawing + prefill / max(own, 1.0))),
        own_keys=round(drawing * (own + answer / 2)),
        shared_keys=round(shared),
        shared_pairs=round(drawing * shared) if round(drawing) else 0,
        prefill_tokens=min(round(prefill), max(1, round(prefill + drawing))),
        prefill_pairs=round(prefill * (shared + own / 2)),
    )
    return steps * host.cost.seconds(load)


def load_seconds(
    weight_bytes: float,
    *,
    bytes_per_second: float = LOAD_BYTES_PER_SECOND,
    start_seconds: float = START_SECONDS,
) -> float:
    """From nothing to the first step; what was there before is freed meanwhile."""
    return start_seconds + weight_bytes / bytes_per_second


@dataclass(slots=True)
class MovingAverage:
    """The mean of what was seen, the newest counting most; at first what was expected.

    All count alike until ``weight`` is more than a new one's share.
    """

    mean: float  # what is expected, as if seen once
    weight: float = 0.1  # of the newest
    seen: int = 0

    def add(self, value: float) -> None:
        """One more was seen."""
        self.seen += 1
        self.mean += max(self.weight, 1 / (self.seen + 1)) * (value - self.mean)


@dataclass(frozen=True, slots=True)
class CallSeconds:
    """How long one call takes, and how that is known."""

    seconds: float
    source: str


ASSUMED = {
    "sql": CallSeconds(SQL_SECONDS, "assumed"),
    "http": CallSeconds(HTTP_SECONDS, "assumed"),
}  # by kind of operator, where nothing is known


def sql_seconds(explain_cost: float) -> float:
    """One query by the database's own estimate; a round trip at least."""
    return max(SQL_SECONDS, explain_cost * SECONDS_OF_A_COST)


def tool_seconds(calls: float, seconds: float, at_once: int) -> float:
    """So many calls of so many seconds each, on so many threads."""
    return calls * seconds / min(max(calls, 1.0), at_once)
