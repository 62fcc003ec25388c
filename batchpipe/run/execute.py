"""Loads the model and runs the plan on it; every result goes to the journal as it is known."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace

import torch

from batchpipe.config import JobOptions
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.engine.self_check import check_attention
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import pace_of
from batchpipe.planner.replan import Replanner
from batchpipe.planner.schedule.token_batcher import Counts
from batchpipe.run.answers import Answers
from batchpipe.run.expected_time import expected_seconds
from batchpipe.run.history import save_history
from batchpipe.run.journal import Journal
from batchpipe.run.kv_memory import blocks_for_all, blocks_in, free_bytes
from batchpipe.run.language import Language
from batchpipe.run.plan_job import Target, plan_job
from batchpipe.run.prepare import Job
from batchpipe.run.progress import Progress
from batchpipe.run.stop import StopSignals

BUDGET = "the budget"


@dataclass(frozen=True, slots=True)
class Executed:
    """What one session of a run did."""

    plan: Plan
    faults: dict[int, str] = field(default_factory=dict)  # rows found not to fit only now
    counts: Counts = field(default_factory=Counts)
    kv_tokens: int = 0
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    expected_seconds: float = 0.0  # by the machine's profile
    stopped_by: str | None = None  # a signal's name, or what was spent


def execute(
    job: Job,
    plan: Plan,
    language: Language,
    journal: Journal,
    options: JobOptions,
    *,
    target: Target,
    device: torch.device,
    dtype: str,
    ends_at: float | None = None,
) -> Executed:
    """Every prompt of the plan is answered in the journal, or as many as a stop allowed.

    ``ends_at`` is the time, by `time.monotonic`, at which the budget is spent.
    """
    if not len(plan.prompts):
        return Executed(plan)
    started = time.perf_counter()
    model = load_model(
        options.model,
        language.config,
        dtype=dtype,
        device=device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
    )
    faults: dict[int, str] = {}
    if target.kv_blocks is None:
        free = blocks_in(free_bytes(device.type), language.shape, dtype)
        target = replace(target, kv_blocks=free)
        fitting, plan = plan_job(job, options.order, target, history=plan.history)
        faults = {row: why for row, why in fitting.faults.items() if row not in job.faults}
        job = fitting
    setting = target.setting
    assert setting is not None
    kv_blocks = min(setting.kv_blocks, blocks_for_all(plan))
    check_attention(model, language.shape, options.model)
    decoder = bind(model, language.shape, kv_blocks)
    setting = replace(setting, kv_blocks=kv_blocks)
    expected = expected_seconds(plan, setting)
    _announce(expected, ends_at)
    loaded = time.perf_counter()
    replanner = Replanner(plan, setting)
    plan = replanner.plan
    engine = Engine(
        decoder,
        plan,
        kv_blocks=kv_blocks,
        pace=pace_of(plan, setting),
        eos_token_ids=language.eos_token_ids,
        request_ids=[job.request_ids[row] for row in job.runnable[plan.first_row].tolist()],
        seed=options.seed,
        tokenizer=language.tokenizer,
    )
    answers = Answers(job, plan, language)
    stopped_by = _answer(engine, answers, replanner, journal, len(job.rows), ends_at)
    lengths = engine.batcher.lengths
    learnt = {key: lengths.finished(group) for group, key in enumerate(plan.group_keys)}
    save_history(options.model, options.template, learnt)
    return Executed(
        plan=plan,
        faults=faults,
        counts=engine.counts,
        kv_tokens=kv_blocks * BLOCK_TOKENS,
        load_seconds=loaded - started,
        run_seconds=time.perf_counter() - loaded,
        expected_seconds=expected,
        stopped_by=stopped_by,
    )


def _announce(expected: float, ends_at: float | None) -> None:
    """A budget that will not do is told before it is spent."""
    if ends_at is None or time.monotonic() + expected <= ends_at:
        return
    left = max(0.0, ends_at - time.monotonic())
    print(
        f"the budget leaves {left / 3600:.2g} hours and the job is expected to take "
        f"{expected / 3600:.2g}: it will stop early, resumably",
        file=sys.stderr,
    )


def _answer(
    engine: Engine,
    answers: Answers,
    replanner: Replanner,
    journal: Journal,
    rows: int,
    ends_at: float | None,
) -> str | None:
    """Steps until everything is answered or something asks to stop; returns what."""
    progress = Progress(rows, len(journal.results))
    prompt_tokens = 0
    with StopSignals() as stop:
        try:
            for finished in engine.steps():
                for answer in finished:
                    replanner.answered(answer.index)
                replanner.between_steps(engine.batcher)
                results = answers.results(finished)
                journal.add(results)
                prompt_tokens += sum(result.prompt_tokens for result in results)
                counts = engine.counts
                progress.update(
                    len(journal.results),
                    prompt_tokens + counts.completion_tokens,
                    max(0.0, 1 - counts.computed_prompt_tokens / max(1, prompt_tokens)),
                )
                if stop.received is not None:
                    return stop.received.name
                if ends_at is not None and time.monotonic() >= ends_at:
                    return BUDGET
        finally:
            progress.close()
            journal.flush()
    return None
