"""Runs a workflow phase after phase, until every row is finished or something asks to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass

from batchpipe.planner.query.graph import INPUT
from batchpipe.running.answering import TOO_MANY_ERRORS
from batchpipe.running.stop import StopSignals
from batchpipe.running.work import Work
from batchpipe.workflow.journal.journal import StepJournal
from batchpipe.workflow.journal.tallies import BY_STEP, Tallies
from batchpipe.workflow.running.admission import Tables
from batchpipe.workflow.running.phases import Phases
from batchpipe.workflow.running.residents import Residents
from batchpipe.workflow.running.runtime import Runtime
from batchpipe.workflow.step_progress import StepProgress, WorkflowProgress, WorkflowWatcher

LOADS = "loads"  # among the journal's facts


@dataclass(slots=True, eq=False)
class Execution:
    """A run of a workflow, by one process."""

    runtime: Runtime
    tables: Tables
    journal: StepJournal
    residents: Residents
    tallies: Tallies
    phases: Phases
    watcher: WorkflowWatcher
    before: Work  # of earlier sessions
    loads_before: int
    most_failed: int | None = None  # more failed rows end the run
    began: float = 0.0

    def run(self) -> str | None:
        """Returns what asked to stop. What is known is on disk, also after an exception."""
        self.began = time.perf_counter()
        self.journal.facts = self.facts
        with StopSignals() as stop:
            try:
                while self.tables.left() != 0:
                    stopped_by = self._phase(stop)
                    if stopped_by is not None:
                        return stopped_by
            finally:
                self.watcher.close()
                self.residents.close()
                self.journal.flush()
        return None

    def work(self) -> Work:
        """What the run has cost up to now."""
        counts = self.residents.spent().counts
        loading = self.residents.load_seconds
        return self.before + Work(
            steps=counts.steps,
            preemptions=counts.preemptions,
            swapped_tokens=counts.swapped_tokens,
            restored_tokens=counts.restored_tokens,
            drafted_tokens=counts.drafted_tokens,
            accepted_tokens=counts.accepted_tokens,
            load_seconds=loading,
            run_seconds=max(0.0, time.perf_counter() - self.began - loading),
        )

    def facts(self) -> dict[str, object]:
        """What goes to disk with the outcomes: what they have cost."""
        known = {**self.journal.manifest.facts, BY_STEP: self.tallies.as_json()}
        known[LOADS] = self.loads_before + self.residents.loads
        return self.work().in_facts(known)

    def _phase(self, stop: StopSignals) -> str | None:
        """Every row has gone as far as the models of the next phase let it."""
        runtime, journal = self.runtime, self.journal
        models = self.phases.next(runtime.wanted)
        self.residents.bring(models)
        runtime.begin_phase()
        known = journal.records
        while not runtime.is_idle:
            runtime.turn()
            journal.flush_if_due()
            self.watcher.show(self._progress(models))
            if stop.received is not None:
                return stop.received.name
            if self.most_failed is not None and journal.failed > self.most_failed:
                return TOO_MANY_ERRORS
        made_progress = journal.records > known or self.phases.has_more
        assert made_progress or not self.tables.left(), f"{models} answer nothing more"
        return None

    def _progress(self, models: tuple[str, ...]) -> WorkflowProgress:
        steps = {
            name: StepProgress(tally.rows, tally.calls, tally.failed)
            for name, tally in self.tallies.items()
        }
        return WorkflowProgress(
            self.journal.finished(INPUT),
            self.tables.rows(INPUT) or 0,
            steps,
            self.journal.failed,
            models,
        )
