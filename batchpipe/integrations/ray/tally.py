"""What the workers have done, counted as it is heard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from batchpipe.integrations.ray.messages import Report
from batchpipe.planner.schedule.counts import Counts
from batchpipe.running.engines import Spent
from batchpipe.running.worker_spent import WorkerSpent


@dataclass(slots=True)
class _Done:
    """By one worker, and by those whose place it took."""

    now: Spent = field(default_factory=Spent)
    before: Spent = field(default_factory=Spent)  # of those who died
    prompts: int = 0
    prompt_tokens: int = 0
    busy_seconds: float = 0.0
    shards: int = 0
    stolen_shards: int = 0
    stolen_prompts: int = 0
    deaths: int = 0


class CrewTally:
    """Counts for every worker, and their sums."""

    def __init__(self, workers: int) -> None:
        self._done = [_Done() for _ in range(workers)]
        self._began = time.monotonic()
        self._ended: float | None = None
        self.where: list[str | None] = [None] * workers

    def begin(self) -> None:
        """The run's time begins."""
        self._began = time.monotonic()

    def end(self) -> None:
        """It is over."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began, up to its end."""
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    def began(self, worker: int, prompts: int, *, is_stolen: bool) -> None:
        """The worker has begun a shard, of which so many prompts are left."""
        done = self._done[worker]
        done.shards += 1
        if is_stolen:
            done.stolen_shards += 1
            done.stolen_prompts += prompts

    def reported(self, worker: int, report: Report, prompts: int, prompt_tokens: int) -> None:
        """The worker has told of new answers to so many prompts with so many tokens."""
        done = self._done[worker]
        done.now = report.spent
        done.busy_seconds += report.busy_seconds
        done.prompts += prompts
        done.prompt_tokens += prompt_tokens

    def died(self, worker: int) -> None:
        """Who takes its place begins to count at nothing."""
        done = self._done[worker]
        done.before, done.now = summed([done.before, done.now], kv_tokens=0), Spent()
        done.deaths += 1

    def spent(self) -> Spent:
        """Of all workers together; what of it is duplicated is not known here."""
        each = [summed([done.before, done.now], done.now.kv_tokens) for done in self._done]
        total = summed(each, sum(spent.kv_tokens for spent in each))
        # They run at the same time, each with a memory of its own.
        total.counts.peak_kv_tokens = sum(spent.counts.peak_kv_tokens for spent in each)
        workers = tuple(
            WorkerSpent(
                worker=number,
                where=self.where[number],
                prompts=done.prompts,
                prompt_tokens=done.prompt_tokens,
                computed_prompt_tokens=spent.counts.computed_prompt_tokens,
                completion_tokens=spent.counts.completion_tokens,
                busy_seconds=done.busy_seconds,
                seconds=self.seconds,
                shards=done.shards,
                stolen_shards=done.stolen_shards,
                stolen_prompts=done.stolen_prompts,
                deaths=done.deaths,
            )
            for number, (done, spent) in enumerate(zip(self._done, each, strict=True))
        )
        return replace(total, workers=workers)


def summed(all_spent: Sequence[Spent], kv_tokens: int) -> Spent:
    """What several did, one after the other; of the tokens at once, the fewest."""
    counts = sum((spent.counts for spent in all_spent), Counts())
    most = [spent.most_tokens for spent in all_spent if spent.most_tokens is not None]
    shortages = sum(spent.memory_shortages for spent in all_spent)
    return Spent(counts, shortages, min(most, default=None), kv_tokens)
