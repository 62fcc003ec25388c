"""Opens an engine on the plan; every result goes to the journal as it is known."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from batchpipe.job.collection import collection_paused
from batchpipe.job.forms import check_judge
from batchpipe.job.history import save_history
from batchpipe.job.plan_job import plan_facts
from batchpipe.planner.plan_file import packed_plan
from batchpipe.running.answering import TOO_MANY_ERRORS, Answering, Limits
from batchpipe.running.answers import Answers, failed_results
from batchpipe.running.begin import Begun, Ready
from batchpipe.running.engines import Spent
from batchpipe.running.progress import Watcher
from batchpipe.running.session.recorder import Recorder
from batchpipe.running.work import Work


@dataclass(frozen=True, slots=True)
class Executed:
    """What one session of a run did."""

    policy: str
    work: Work  # with that of earlier sessions
    spent: Spent = field(default_factory=Spent)
    uncached_tokens: int = 0  # prompt tokens of its results that are not counted as cached
    kv_tokens: int = 0
    expected_seconds: float = 0.0  # by the machine's profile
    stopped_by: str | None = None  # a signal's name, or what was spent


def execute(
    ready: Ready, begun: Begun, *, limits: Limits, work: Work, watcher: Watcher
) -> Executed:
    """Every prompt of the plan is answered in the journal, or as many as a stop allowed.

    ``work`` is what the run has cost before.
    """
    plan, journal, options = begun.plan, begun.journal, ready.options
    if not len(plan.prompts):
        return Executed(plan.policy, work)
    if limits.are_passed_by(journal):
        return Executed(plan.policy, work, stopped_by=TOO_MANY_ERRORS)
    started = time.perf_counter()
    check_judge(plan.samplings)
    with collection_paused():
        opened = ready.backend.open(begun.job, plan, ready.language, ready.target)
    job, plan = opened.job, opened.plan
    journal.add(failed_results(job.faults, but=begun.job.faults))
    _announce(opened.expected_seconds, limits)
    work += Work(load_seconds=time.perf_counter() - started)
    facts = plan_facts(plan, options, opened.facts)
    journal.keep("plan.parquet", packed_plan(plan, facts))
    recorder = Recorder.of(journal, opened, ready.language, facts)
    answers = Answers(job, plan, ready.language, opened.matches)
    answering = Answering(opened.engine, plan, answers, journal, limits, work, recorder, watcher)
    stopped_by = answering.run()
    learnt = {key: answering.lengths.finished(nth) for nth, key in enumerate(plan.group_keys)}
    save_history(options.model, options.template, learnt)
    return Executed(
        policy=plan.policy,
        work=answering.work(),
        spent=opened.engine.spent(),
        uncached_tokens=answering.uncached_tokens,
        kv_tokens=opened.kv_tokens,
        expected_seconds=opened.expected_seconds,
        stopped_by=stopped_by,
    )


def _announce(expected: float, limits: Limits) -> None:
    """A budget that will not do is told before it is spent."""
    if limits.ends_at is None or time.monotonic() + expected <= limits.ends_at:
        return
    left = max(0.0, limits.ends_at - time.monotonic())
    print(
        f"the budget leaves {left / 3600:.2g} hours and the job is expected to take "
        f"{expected / 3600:.2g}: it will stop early, resumably",
        file=sys.stderr,
    )
