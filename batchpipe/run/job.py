"""The main job, file to file: read, plan, execute, write."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import torch

from batchpipe.config import JobOptions, RunOptions, allowed_errors
from batchpipe.engine.model import choose_device, choose_dtype, refuse_unserved
from batchpipe.errors import Interrupted, StoppedEarly
from batchpipe.rows.output_path import check_output
from batchpipe.rows.results import Result, write_results
from batchpipe.run.execute import Executed, execute
from batchpipe.run.fingerprint import fingerprint
from batchpipe.run.journal import Journal
from batchpipe.run.kv_memory import kv_blocks_before_loading
from batchpipe.run.language import load_language
from batchpipe.run.prepare import Job, plan_job, prepare, read_job_rows
from batchpipe.run.summary import Summary


def run(options: JobOptions, run_options: RunOptions) -> Summary:
    """Every input row has its result row in OUT; what was finished before is not computed again.

    Raises:
        ConfigError: before the model loads, for anything wrong with the request
        StoppedEarly: after SIGTERM or Ctrl-C (`Interrupted`); what is finished is on disk
    """
    started = time.perf_counter()
    allowed_errors(run_options.max_errors, 0)
    folder = Path(run_options.run_dir or f"{run_options.out}.run")
    resumable = (folder / "manifest.json").is_file()
    check_output(
        run_options.out, overwrite=run_options.overwrite or resumable, source=options.input
    )
    device = choose_device(options.device)
    rows, template = read_job_rows(options)
    language = load_language(
        options.model, revision=options.revision, trust_remote_code=options.trust_remote_code
    )
    refuse_unserved(language.config, options.model)
    dtype = choose_dtype(options.dtype, language.config, device)
    kv_blocks = kv_blocks_before_loading(options, language.shape, device.type, dtype)
    whole = prepare(options, rows, template, language)
    journal = Journal.open(
        folder, fingerprint(options, rows, dtype), overwrite=run_options.overwrite
    )
    if journal.summary is not None and Path(run_options.out).is_file():
        print(f"{folder}: this run is complete, nothing to do", file=sys.stderr)
        return Summary(**journal.summary)
    earlier = list(journal.results.values())
    left = set(whole.runnable.tolist()) - journal.results.keys()
    job, plan = plan_job(whole.only(left), options.order, kv_blocks)
    _record(journal, job.faults)
    planned = time.perf_counter()
    executed = execute(
        job,
        plan,
        language,
        journal,
        options,
        kv_blocks=kv_blocks,
        step_tokens=run_options.step_tokens,
        device=device,
        dtype=dtype,
    )
    _record(journal, executed.faults)
    if executed.stopped_by is not None:
        raise _stopped(executed.stopped_by, journal, len(rows))
    results = [journal.results[row] for row in range(len(rows))]
    write_results(rows, results, run_options.out, with_token_ids=run_options.with_token_ids)
    summary = _summary(
        whole, executed, results, earlier, options, run_options, device, dtype, planned - started
    )
    journal.finish(summary.as_json())
    return summary


def _record(journal: Journal, faults: dict[int, str]) -> None:
    """Every row with a fault has its error result."""
    journal.add(
        Result.failed(row, sentence)
        for row, sentence in sorted(faults.items())
        if row not in journal.results
    )
    journal.flush()


def _stopped(by: signal.Signals, journal: Journal, rows: int) -> StoppedEarly:
    kind = Interrupted if by == signal.SIGINT else StoppedEarly
    return kind(
        f"stopped by {by.name} with {len(journal.results)} of {rows} rows finished and on disk in "
        f"{journal.folder}; the same command goes on from there"
    )


def _summary(
    job: Job,
    executed: Executed,
    results: list[Result],
    earlier: list[Result],
    options: JobOptions,
    run_options: RunOptions,
    device: torch.device,
    dtype: str,
    plan_seconds: float,
) -> Summary:
    counts, plan = executed.counts, executed.plan
    failed = sum(result.status != "success" for result in results) - len(job.skipped)
    prompt_tokens = sum(result.prompt_tokens for result in results)
    computed = counts.computed_prompt_tokens + sum(
        result.prompt_tokens - result.cached_tokens for result in earlier
    )
    too_many = failed > allowed_errors(run_options.max_errors, len(results))
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
        order=options.order,
        dtype=dtype,
        device=device.type,
        output=run_options.out,
        run_dir=str(Path(run_options.run_dir or f"{run_options.out}.run")),
        exit_code=3 if too_many else 0,
    )
