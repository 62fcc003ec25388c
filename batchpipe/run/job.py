"""The main job, file to file: read, plan, execute, write."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from batchpipe.config import JobOptions, RunOptions, allowed_errors, budget_hours
from batchpipe.engine.model import choose_device, choose_dtype, refuse_by_class
from batchpipe.errors import ConfigError, Interrupted, StoppedEarly
from batchpipe.planner.planning import make_plan
from batchpipe.rows.output_path import check_output
from batchpipe.rows.results import Result, write_results
from batchpipe.run.execute import Executed, execute
from batchpipe.run.fingerprint import fingerprint
from batchpipe.run.history import load_history
from batchpipe.run.journal import Journal, read_manifest
from batchpipe.run.language import Language, load_config, load_language
from batchpipe.run.plan_job import Target, plan_job, target_of
from batchpipe.run.prepare import Job, prepare, read_job_rows
from batchpipe.run.summary import Summary


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A job that may run, the model's language, and what it will run on."""

    job: Job
    language: Language
    device: torch.device
    dtype: str
    target: Target


def run(options: JobOptions, run_options: RunOptions) -> Summary:
    """Every input row has its result row in OUT; what was finished before is not computed again.

    Raises:
        ConfigError: before the model loads, for anything wrong with the request
        StoppedEarly: after SIGTERM or Ctrl-C (`Interrupted`); what is finished is on disk
    """
    started, began = time.perf_counter(), time.monotonic()
    folder, own_output = _check_places(options, run_options)
    budget = budget_hours(options, run_options)
    ready = _make_ready(options, run_options)
    rows = ready.job.rows
    journal = Journal.open(
        folder,
        fingerprint(options, rows, ready.dtype),
        output=os.path.realpath(run_options.out),
        overwrite=run_options.overwrite,
    )
    finished = _finished(journal, run_options) if own_output else None
    if finished is not None:
        print(f"{folder}: this run is complete, nothing to do", file=sys.stderr)
        return finished
    earlier = list(journal.results.values())
    left = set(ready.job.runnable.tolist()) - journal.results.keys()
    history = load_history(options.model, options.template)
    job, plan = plan_job(ready.job.only(left), options.order, ready.target, history=history)
    _record(journal, job.faults)
    plan_seconds = time.perf_counter() - started
    executed = execute(
        job,
        plan,
        ready.language,
        journal,
        options,
        target=ready.target,
        device=ready.device,
        dtype=ready.dtype,
        ends_at=None if budget is None else began + budget * 3600,
    )
    _record(journal, executed.faults)
    if executed.stopped_by is not None:
        raise _stopped(executed.stopped_by, journal, len(rows))
    results = [journal.results[row] for row in range(len(rows))]
    write_results(rows, results, run_options.out, with_token_ids=run_options.with_token_ids)
    summary = _summary(ready, executed, results, earlier, options, run_options, plan_seconds)
    journal.finish(summary.as_json())
    return summary


def _make_ready(options: JobOptions, run_options: RunOptions) -> _Ready:
    """Everything checked and tokenized, short of the weights."""
    device = choose_device(options.device)
    rows, template = read_job_rows(options)
    config = load_config(options)
    refuse_by_class(options.model, config)
    language = load_language(options, config)
    dtype = choose_dtype(options.dtype, config, device)
    target = target_of(
        options, language, device=device.type, dtype=dtype, step_tokens=run_options.step_tokens
    )
    return _Ready(prepare(options, rows, template, language), language, device, dtype, target)


def _check_places(options: JobOptions, run_options: RunOptions) -> tuple[Path, bool]:
    """The run directory, and whether OUT is what its run writes and may write again."""
    allowed_errors(run_options.max_errors, 0)
    out = run_options.out
    folder = Path(run_options.run_dir or f"{out}.run")
    if os.path.realpath(folder) == os.path.realpath(out):
        raise ConfigError(f"--run-dir {folder} is OUT itself; choose another directory")
    manifest = read_manifest(folder)
    own_output = manifest is not None and manifest.get("output") == os.path.realpath(out)
    check_output(out, overwrite=run_options.overwrite or own_output, source=options.input)
    return folder, own_output


def _finished(journal: Journal, run_options: RunOptions) -> Summary | None:
    """The summary of this run where all of it is done, OUT with these very columns included."""
    if journal.summary is None or not Path(run_options.out).is_file():
        return None
    summary = Summary(**journal.summary)
    if summary.with_token_ids != run_options.with_token_ids:
        return None
    return replace(summary, exit_code=_exit_code(summary.failed, summary.rows, run_options))


def _exit_code(failed: int, rows: int, run_options: RunOptions) -> int:
    return 3 if failed > allowed_errors(run_options.max_errors, rows) else 0


def _record(journal: Journal, faults: dict[int, str]) -> None:
    """Every row with a fault has its error result."""
    journal.add(
        Result.failed(row, sentence)
        for row, sentence in sorted(faults.items())
        if row not in journal.results
    )
    journal.flush()


def _stopped(by: str, journal: Journal, rows: int) -> StoppedEarly:
    kind = Interrupted if by == signal.SIGINT.name else StoppedEarly
    return kind(
        f"stopped by {by} with {len(journal.results)} of {rows} rows finished and on disk in "
        f"{journal.folder}; the same command goes on from there"
    )


def _summary(
    ready: _Ready,
    executed: Executed,
    results: list[Result],
    earlier: list[Result],
    options: JobOptions,
    run_options: RunOptions,
    plan_seconds: float,
) -> Summary:
    counts, plan, job = executed.counts, executed.plan, ready.job
    if earlier:  # this session planned only what was left
        plan = make_plan(job.prompts, job.samplings, order="input")
    failed = sum(result.status != "success" for result in results) - len(job.skipped)
    prompt_tokens = sum(result.prompt_tokens for result in results)
    computed = counts.computed_prompt_tokens + sum(
        result.prompt_tokens - result.cached_tokens for result in earlier
    )
    return Summary(
        rows=len(results),
        succeeded=sum(result.status == "success" for result in results),
        failed=failed,
        skipped=len(job.skipped),
        duplicates=plan.duplicates,
        prompt_tokens=prompt_tokens,
        computed_prompt_tokens=computed,
        reused_prompt_tokens=prompt_tokens - computed,
        shareable_prompt_tokens=plan.shareable_prompt_tokens,
        completion_tokens=sum(result.completion_tokens for result in results),
        steps=counts.steps,
        peak_kv_tokens=counts.peak_kv_tokens,
        kv_tokens=executed.kv_tokens,
        preemptions=counts.preemptions,
        plan_seconds=round(plan_seconds, 3),
        load_seconds=round(executed.load_seconds, 3),
        run_seconds=round(executed.run_seconds, 3),
        expected_seconds=round(executed.expected_seconds, 3),
        order=options.order,
        policy=executed.plan.policy,
        dtype=ready.dtype,
        device=ready.device.type,
        output=run_options.out,
        run_dir=str(Path(run_options.run_dir or f"{run_options.out}.run")),
        with_token_ids=run_options.with_token_ids,
        exit_code=_exit_code(failed, len(results), run_options),
    )
