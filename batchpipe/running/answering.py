"""The running engine: what it answers goes to the journal, until all is done or a stop comes."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass

from batchpipe.journal.journal import Journal
from batchpipe.planner.plan import Plan
from batchpipe.rows.results import Result
from batchpipe.running.answers import Answers
from batchpipe.running.engines import Engine, Spent
from batchpipe.running.progress import Progress, Watcher
from batchpipe.running.session.recorder import Recorder
from batchpipe.running.stop import StopSignals
from batchpipe.running.work import Work

BUDGET = "the budget"
TOO_MANY_ERRORS = "--max-errors"


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a run before all is answered."""

    ends_at: float | None = None  # by `time.monotonic`: the budget is spent
    failed_rows: int | None = None  # more of them are too many

    def are_passed_by(self, journal: Journal) -> bool:
        """True where too many rows failed."""
        return self.failed_rows is not None and journal.counts.failed > self.failed_rows


class Answering:
    """Steps through the plan until everything is answered or something asks to stop."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        answers: Answers,
        journal: Journal,
        limits: Limits,
        work: Work,
        recorder: Recorder,
        watcher: Watcher,
    ) -> None:
        self.uncached_tokens = 0
        self._before, self._started = work, time.perf_counter()
        self.lengths = plan.new_lengths()
        self._engine, self._answers = engine, answers
        self._journal, self._limits, self._recorder = journal, limits, recorder
        self._watcher, self._done_before = watcher, journal.counts.finished
        self._prompt_tokens = 0

    def run(self) -> str | None:
        """Returns what asked to stop. What is finished is on disk, also after an exception."""
        is_done = False
        with StopSignals() as stop, closing(self._engine.steps()) as steps:
            try:
                self._tell(self._engine.spent())
                for finished in steps:
                    for answer in finished:
                        self._recorder.answered(answer)
                        if answer.ended_itself:
                            self.lengths.add(answer.index, answer.tokens)
                    results = self._answers.results(finished)
                    if results:
                        self._record(results)
                    spent = self._engine.spent()
                    self._recorder.step(spent)
                    self._tell(spent)
                    if stop.received is not None:
                        return stop.received.name
                    if self._limits.are_passed_by(self._journal):
                        return TOO_MANY_ERRORS
                    if self._is_spent():
                        return BUDGET
                is_done = True
            finally:
                self._watcher.close()
                self._journal.flush()
                self._recorder.write(is_done=is_done)
        return None

    def work(self) -> Work:
        """What the run has cost up to now."""
        spent = self._engine.spent()
        counts = spent.counts
        return self._before + Work(
            steps=counts.steps,
            preemptions=counts.preemptions,
            swapped_tokens=counts.swapped_tokens,
            restored_tokens=counts.restored_tokens,
            drafted_tokens=counts.drafted_tokens,
            accepted_tokens=counts.accepted_tokens,
            memory_shortages=spent.memory_shortages,
            run_seconds=time.perf_counter() - self._started,
        )

    def _record(self, results: list[Result]) -> None:
        """The results are in the journal, and what they cost goes with their commit."""
        self._journal.record(facts=self.work().in_facts(self._journal.manifest.facts))
        self._journal.add(results)
        for result in results:
            self._prompt_tokens += result.prompt_tokens
            self.uncached_tokens += result.prompt_tokens - result.cached_tokens

    def _is_spent(self) -> bool:
        ends_at = self._limits.ends_at
        return ends_at is not None and time.monotonic() >= ends_at

    def _tell(self, spent: Spent) -> None:
        counts = spent.counts
        self._watcher.show(
            Progress(
                done=self._journal.counts.finished,
                total=self._journal.rows,
                done_before=self._done_before,
                prompt_tokens=self._prompt_tokens,
                computed_prompt_tokens=counts.computed_prompt_tokens,
                completion_tokens=counts.completion_tokens,
                seconds=time.perf_counter() - self._started,
            )
        )
