"""The main job, file to file: read, plan, execute, write."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace

from batchpipe.config import JobOptions, RetryOptions, RunOptions, allowed_errors, budget_hours
from batchpipe.errors import ConfigError, Interrupted, StoppedEarly
from batchpipe.job.fingerprint import check_unchanged
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import hold
from batchpipe.journal.manifest import read_manifest
from batchpipe.rows.logprob_columns import asked_columns
from batchpipe.rows.output_path import check_output
from batchpipe.rows.parameters import check_overrides, constraint_in
from batchpipe.rows.results import write_results
from batchpipe.running.answering import TOO_MANY_ERRORS, Limits
from batchpipe.running.answers import failed_results
from batchpipe.running.batch_lines import check_form, openai_form, tell_bad_lines
from batchpipe.running.begin import (
    Begun,
    Ready,
    begin,
    known_run,
    make_ready,
    real_path,
    refuse_workflow,
)
from batchpipe.running.engines import Backend
from batchpipe.running.execute import Executed, execute
from batchpipe.running.finished import exit_code, finished_before, with_exit_code
from batchpipe.running.progress import ProgressBar, Watcher
from batchpipe.running.summary import Summary
from batchpipe.running.tally import Tally
from batchpipe.running.work import Work
from batchpipe.structured.column import Column, column_of


def run(
    options: JobOptions,
    run_options: RunOptions,
    *,
    backend: Backend | None = None,
    watcher: Watcher | None = None,
) -> Summary:
    """Every input row has its result row in OUT; what was finished before is not computed again.

    ``backend`` is what the options name where that is there already; ``watcher`` is told of the
    progress, on stderr where it is None.

    Raises:
        ConfigError: before the model loads, for anything wrong with the request
        StoppedEarly: after SIGTERM or Ctrl-C (`Interrupted`); what is finished is on disk
    """
    return _run(options, run_options, None, backend, watcher)


def retry(run_dir: str, asked: RetryOptions) -> Summary:
    """The chosen rows of a run are computed once more, and OUT has their new results.

    All other rows stay as they are. A row keeps an answer that it has where the new attempt fails.

    Raises:
        ConfigError: the directory holds no run, or the request is wrong
        StoppedEarly: as `run`
    """
    check_overrides(asked.overrides)
    folder = open_folder(run_dir)
    known = read_manifest(folder)
    if known is None:
        raise ConfigError(f"{run_dir} holds no run; give the directory that `run` made, OUT.run")
    refuse_workflow(folder, known)
    run_options = RunOptions(**known.command["run"])
    max_errors = asked.max_errors if asked.max_errors is not None else run_options.max_errors
    options = JobOptions(**known.command["job"])
    return _run(
        replace(options, base_url=asked.base_url or options.base_url),
        replace(run_options, run_dir=run_dir, max_errors=max_errors),
        asked,
    )


def _run(
    options: JobOptions,
    run_options: RunOptions,
    retry: RetryOptions | None,
    backend: Backend | None = None,
    watcher: Watcher | None = None,
) -> Summary:
    started, began = time.perf_counter(), time.monotonic()
    budget = budget_hours(options, run_options)
    folder = open_folder(run_options.run_dir or f"{run_options.out}.run")
    own_output = _check_places(folder, options, run_options)
    if own_output and retry is None:
        complete = finished_before(folder, options, run_options)
        if complete is not None:
            if watcher is None:
                print(f"{folder.name}: this run is complete, nothing to do", file=sys.stderr)
            return complete
    ready = make_ready(options, run_options, backend)
    check_form(ready.source, run_options)
    with hold(folder) as lock:
        begun = begin(ready, folder, lock, run_options, retry)
        journal = begun.journal
        if retry is not None and journal.summary is not None:  # there is nothing to repair
            return with_exit_code(Summary(**journal.summary), run_options)
        tell_bad_lines(begun.job)
        journal.add(failed_results(begun.job.faults))
        journal.flush()
        before = Work.of(journal.manifest.facts)
        executed = execute(
            ready,
            begun,
            limits=_limits(journal, run_options, None if budget is None else began + budget * 3600),
            work=before + Work(plan_seconds=time.perf_counter() - started),
            watcher=watcher or ProgressBar(),
        )
        if executed.stopped_by is not None:
            raise _stopped(executed.stopped_by, journal)
        check_unchanged(ready.source, journal.manifest.fingerprint["input"])
        tally = Tally()
        write_results(
            ready.source,
            tally.counting(journal.tables()),
            run_options.out,
            with_token_ids=run_options.with_token_ids,
            several=journal.several,
            logprobs=_told_columns(ready, journal),
            parsed=_parsed(ready, journal),
            openai=openai_form(ready.source, options, journal.manifest),
        )
        expected = 0.0 if ready.target is None else before.run_seconds + executed.expected_seconds
        summary = _summary(ready, begun, executed, tally, run_options, expected)
        journal.finish(summary.as_json())
        return summary


def _told_columns(ready: Ready, journal: Journal) -> frozenset[str]:
    """The columns of log-probabilities that OUT has: any row may have asked for them."""
    overrides = (name for repair in journal.manifest.repairs for name in repair.overrides)
    return asked_columns(ready.options.sampling, ready.parameter_columns, list(overrides))


def _check_places(folder: Folder, options: JobOptions, run_options: RunOptions) -> bool:
    """Whether OUT is what the directory's run writes and may write again; OUT can be written."""
    allowed_errors(run_options.max_errors, 0)
    out = run_options.out
    if real_path(folder.name) == real_path(out):
        raise ConfigError(f"--run-dir {folder.name} is OUT itself; choose another directory")
    known = known_run(folder, run_options)
    own_output = known is not None and known.output == real_path(out)
    check_output(out, overwrite=run_options.overwrite or own_output, source=options.input)
    return own_output


def _limits(journal: Journal, run_options: RunOptions, ends_at: float | None) -> Limits:
    if run_options.max_errors is None:
        return Limits(ends_at)
    allowed = allowed_errors(run_options.max_errors, journal.rows)
    return Limits(ends_at, allowed + journal.manifest.facts["skipped"])


def _parsed(ready: Ready, journal: Journal) -> Column | None:
    """The type of the values in the answers, where they have one."""
    default = constraint_in(ready.options.sampling)
    overridden = {name for each in journal.manifest.repairs for name in each.overrides}
    return column_of(default, ready.parameter_columns, overridden)


def _stopped(by: str, journal: Journal) -> StoppedEarly:
    kind = Interrupted if by == signal.SIGINT.name else StoppedEarly
    counts = journal.counts
    why = f", {counts.failed:,} of them failed" if by == TOO_MANY_ERRORS else ""
    return kind(
        f"stopped by {by} with {counts.finished} of {journal.rows} rows finished{why} and on disk "
        f"in {journal.folder.name}; the same command goes on from there"
    )


def _summary(
    ready: Ready,
    begun: Begun,
    executed: Executed,
    tally: Tally,
    run_options: RunOptions,
    expected_seconds: float,
) -> Summary:
    spent, work, journal = executed.spent, executed.work, begun.journal
    options, counts = ready.options, spent.counts
    facts = journal.manifest.facts
    failed = max(0, tally.rows - tally.succeeded - facts["skipped"])
    # What earlier sessions computed is known by row only, what this one did to the token.
    computed = counts.computed_prompt_tokens + tally.uncached_tokens - executed.uncached_tokens
    return Summary(
        rows=tally.rows,
        succeeded=tally.succeeded,
        failed=failed,
        skipped=tally.rows - tally.succeeded - failed,
        duplicates=facts["duplicates"],
        prompt_tokens=tally.prompt_tokens,
        computed_prompt_tokens=computed,
        reused_prompt_tokens=tally.prompt_tokens - computed,
        shareable_prompt_tokens=facts["shareable_prompt_tokens"],
        completion_tokens=tally.completion_tokens,
        steps=work.steps,
        peak_kv_tokens=counts.peak_kv_tokens,
        kv_tokens=executed.kv_tokens,
        preemptions=work.preemptions,
        swapped_tokens=work.swapped_tokens,
        restored_tokens=work.restored_tokens,
        drafted_tokens=work.drafted_tokens,
        accepted_tokens=work.accepted_tokens,
        memory_shortages=work.memory_shortages,
        most_tokens=spent.most_tokens,
        plan_seconds=round(work.plan_seconds, 3),
        load_seconds=round(work.load_seconds, 3),
        run_seconds=round(work.run_seconds, 3),
        expected_seconds=round(expected_seconds, 3),
        order=options.order,
        policy=executed.policy,
        dtype=ready.dtype,
        quantize=options.quantize,
        device=ready.device,
        output=run_options.out,
        run_dir=journal.folder.name,
        with_token_ids=run_options.with_token_ids,
        repairs=len(journal.manifest.repairs),
        exit_code=exit_code(failed, tally.rows, run_options),
        engine=options.engine,
        served_model=options.served_model,
        invalid_output=tally.invalid,
        workers=[worker.as_json() for worker in spent.workers],
        duplicated_prompt_tokens=spent.duplicated_prompt_tokens,
    )
