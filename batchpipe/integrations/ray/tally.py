"""What the workers have done, counted as it is heard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from batchpipe.engine.answer import Answer
from batchpipe.integrations.ray.messages import Report
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.shards.board import Assignment
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

    def __init__(self, plan: Plan, workers: int) -> None:
        self._plan = plan
        self._done = [_Done() for _ in range(workers)]
        self._began = time.monotonic()
        self.where: list[str | None] = [None] * workers

    def begin(self) -> None:
        """The run's time begins."""
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def began(self, taken: Assignment, prompts: int) -> None:
        """The worker has begun the shard, of which so many prompts are left."""
        done = self._done[taken.worker]
        done.shards += 1
        if taken.is_stolen:
            done.stolen_shards += 1
            done.stolen_prompts += prompts

    def reported(self, worker: int, report: Report, answers: Sequence[Answer]) -> None:
        """The worker has told of these answers, which are new."""
        done, lengths = self._done[worker], self._plan.prompts.lengths
        done.now = report.spent
        done.busy_seconds += report.busy_seconds
        done.prompts += len(answers)
        done.prompt_tokens += sum(int(lengths[answer.index]) for answer in answers)

    def died(self, worker: int) -> None:
        """Who takes its place begins to count at nothing."""
        done = self._done[worker]
        done.before, done.now = summed([done.before, done.now], kv_tokens=0), Spent()
        done.deaths += 1

    def spent(self) -> Spent:
        """Of all workers together."""
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
        counts = total.counts
        computed = counts.computed_prompt_tokens - counts.recomputed_tokens
        return replace(
            total,
            workers=workers,
            duplicated_prompt_tokens=max(0, computed - self._plan.tree.computed_tokens),
        )


def summed(all_spent: Sequence[Spent], kv_tokens: int) -> Spent:
    """What several did, one after the other; of the tokens at once, the fewest."""
    counts = sum((spent.counts for spent in all_spent), Counts())
    most = [spent.most_tokens for spent in all_spent if spent.most_tokens is not None]
    shortages = sum(spent.memory_shortages for spent in all_spent)
    return Spent(counts, shortages, min(most, default=None), kv_tokens)
