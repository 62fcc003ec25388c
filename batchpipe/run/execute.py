"""Loads the model and runs the plan on it; every result goes to the journal as it is known."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from batchpipe.config import JobOptions, dtype_text
from batchpipe.engine.engine import Engine
from batchpipe.engine.faults import first_line, is_device_lost, is_out_of_memory
from batchpipe.engine.model import Decoder, bind, load_model
from batchpipe.engine.self_check import check_attention
from batchpipe.errors import ConfigError, DeviceLost
from batchpipe.journal.journal import Journal
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.plan import Plan
from batchpipe.planner.plan_file import packed_plan
from batchpipe.planner.planning import Setting, pace_of
from batchpipe.planner.replan import Replanner
from batchpipe.planner.schedule.token_batcher import Counts
from batchpipe.run.answering import TOO_MANY_ERRORS, Answering, Limits
from batchpipe.run.answers import Answers, failed_results
from batchpipe.run.expected_time import expected_seconds
from batchpipe.run.history import save_history
from batchpipe.run.kv_memory import blocks_for_all, blocks_in, free_bytes
from batchpipe.run.language import Language
from batchpipe.run.plan_job import Target, alone_blocks, plan_facts, plan_job
from batchpipe.run.prepare import Job
from batchpipe.run.work import Work


@dataclass(frozen=True, slots=True)
class Executed:
    """What one session of a run did."""

    policy: str
    work: Work  # with that of earlier sessions
    counts: Counts = field(default_factory=Counts)
    uncached_tokens: int = 0  # prompt tokens of its results that are not counted as cached
    kv_tokens: int = 0
    expected_seconds: float = 0.0  # by the machine's profile
    most_tokens: int | None = None  # of a forward pass since the last shortage
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
    limits: Limits,
    work: Work,
) -> Executed:
    """Every prompt of the plan is answered in the journal, or as many as a stop allowed.

    ``work`` is what the run has cost before.
    """
    if not len(plan.prompts):
        return Executed(plan.policy, work)
    if limits.are_passed_by(journal):
        return Executed(plan.policy, work, stopped_by=TOO_MANY_ERRORS)
    started = time.perf_counter()
    model = _loaded(language, options, device, dtype)
    if target.kv_blocks is None:
        free = blocks_in(free_bytes(device.type), language.shape, dtype)
        target = replace(target, kv_blocks=free)
        known = job.faults
        job, plan = plan_job(job, options.order, target, history=plan.history)
        journal.add(failed_results(job.faults, but=known))
    setting = target.setting
    assert setting is not None, "the KV memory is known"
    decoder, setting = _bound(model, language, plan, setting, options)
    expected = expected_seconds(plan, setting)
    _announce(expected, limits)
    work += Work(load_seconds=time.perf_counter() - started)
    replanner = Replanner(plan, setting)
    plan = replanner.plan
    journal.folder.put("plan.parquet", packed_plan(plan, plan_facts(plan, setting, options)))
    engine = Engine(
        decoder,
        plan,
        kv_blocks=setting.kv_blocks,
        pace=pace_of(plan, setting),
        eos_token_ids=language.eos_token_ids,
        request_ids=[job.request_ids[place] for place in plan.first_row.tolist()],
        seed=options.seed,
        tokenizer=language.tokenizer,
        speculate_by=setting.cost if options.speculate == "auto" else None,
    )
    answers = Answers(job, plan, language)
    answering = Answering(engine, answers, replanner, journal, limits, work)
    stopped_by = answering.run()
    lengths = engine.batcher.lengths
    learnt = {key: lengths.finished(group) for group, key in enumerate(plan.group_keys)}
    save_history(options.model, options.template, learnt)
    return Executed(
        policy=plan.policy,
        work=answering.work(),
        counts=engine.counts,
        uncached_tokens=answering.uncached_tokens,
        kv_tokens=setting.kv_blocks * BLOCK_TOKENS,
        expected_seconds=expected,
        most_tokens=engine.most_tokens,
        stopped_by=stopped_by,
    )


def _loaded(language: Language, options: JobOptions, device: torch.device, dtype: str) -> Any:
    """The model on its device, checked against its own attention.

    Raises:
        ConfigError: the device has no room for it
        DeviceLost: the device fails for good
    """
    try:
        model = load_model(
            options.model,
            language.config,
            dtype=dtype,
            device=device,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            quantize=options.quantize,
        )
        check_attention(model, language.shape, options.model)
    except (RuntimeError, MemoryError) as error:
        if is_device_lost(error):
            raise DeviceLost(f"device {device} is lost ({first_line(error)})") from error
        if not is_out_of_memory(error):
            raise
        weights = language.shape.weight_bytes(dtype)
        raise ConfigError(
            f"{device.type} has no room for {options.model}, whose weights take "
            f"{weights / 1e9:.1f} GB in {dtype_text(dtype, options.quantize)}; choose a smaller "
            f"model, --dtype or --quantize"
        ) from error
    return model


def _bound(
    model: Any, language: Language, plan: Plan, setting: Setting, options: JobOptions
) -> tuple[Decoder, Setting]:
    """The model with as much KV memory as the plan can use and, left to us, as there is.

    Raises:
        ConfigError: the memory that --kv-memory names, or that the longest prompt needs, is not
            there
    """
    needed = int(alone_blocks(plan).max(initial=1))
    blocks = min(setting.kv_blocks, blocks_for_all(plan))
    while True:
        try:
            return bind(model, language.shape, blocks), replace(setting, kv_blocks=blocks)
        except (RuntimeError, MemoryError) as error:
            fewer = blocks * 3 // 4
            if not is_out_of_memory(error):
                raise
            if options.kv_memory != "auto" or fewer < needed:
                raise ConfigError(
                    f"there is no room for the KV of {blocks * BLOCK_TOKENS:,} tokens beside the "
                    f"model; give a smaller --kv-memory, or lower max_tokens"
                ) from error
            blocks = fewer


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
