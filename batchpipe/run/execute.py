"""Loads the model and runs the plan on it; every result goes to the journal as it is known."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field

import torch

from batchpipe.config import JobOptions
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.engine.self_check import check_attention
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.plan import Plan
from batchpipe.planner.token_batcher import Counts
from batchpipe.run.answers import Answers
from batchpipe.run.journal import Journal
from batchpipe.run.kv_memory import blocks_for_all, blocks_in, free_bytes
from batchpipe.run.language import Language
from batchpipe.run.prepare import Job, plan_job
from batchpipe.run.progress import Progress
from batchpipe.run.stop import StopSignals

# Past the knee of the matrix kernels; on a CPU a step's activations also stay in its caches.
STEP_TOKENS = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class Executed:
    """What one session of a run did."""

    plan: Plan
    faults: dict[int, str] = field(default_factory=dict)  # rows found not to fit only now
    counts: Counts = field(default_factory=Counts)
    kv_tokens: int = 0
    load_seconds: float = 0.0
    run_seconds: float = 0.0
    stopped_by: signal.Signals | None = None


def execute(
    job: Job,
    plan: Plan,
    language: Language,
    journal: Journal,
    options: JobOptions,
    *,
    kv_blocks: int | None,
    step_tokens: int | None,
    device: torch.device,
    dtype: str,
) -> Executed:
    """Every prompt of the plan is answered in the journal, or as many as a stop signal allowed."""
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
    if kv_blocks is None:
        kv_blocks = blocks_in(free_bytes(device.type), language.shape, dtype)
        fitting, plan = plan_job(job, options.order, kv_blocks)
        faults = {row: why for row, why in fitting.faults.items() if row not in job.faults}
        job = fitting
    kv_blocks = min(kv_blocks, blocks_for_all(plan))
    check_attention(model, language.shape, options.model)
    decoder = bind(model, language.shape, kv_blocks)
    loaded = time.perf_counter()
    engine = Engine(
        decoder,
        plan,
        kv_blocks=kv_blocks,
        step_tokens=step_tokens or STEP_TOKENS[device.type],
        eos_token_ids=language.eos_token_ids,
        request_ids=[job.request_ids[row] for row in job.runnable[plan.first_row].tolist()],
        seed=options.seed,
        tokenizer=language.tokenizer,
    )
    stopped_by = _answer(engine, Answers(job, plan, language), journal, len(job.rows))
    return Executed(
        plan=plan,
        faults=faults,
        counts=engine.counts,
        kv_tokens=kv_blocks * BLOCK_TOKENS,
        load_seconds=loaded - started,
        run_seconds=time.perf_counter() - loaded,
        stopped_by=stopped_by,
    )


def _answer(engine: Engine, answers: Answers, journal: Journal, rows: int) -> signal.Signals | None:
    """Steps until everything is answered or a signal asks to stop; returns the signal."""
    progress = Progress(rows, len(journal.results))
    prompt_tokens = 0
    with StopSignals() as stop:
        try:
            for finished in engine.steps():
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
                    return stop.received
        finally:
            progress.close()
            journal.flush()
    return None
