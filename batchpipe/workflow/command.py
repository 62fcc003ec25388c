"""`batchpipe run --workflow`, file to file: read, plan, execute, write."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace

from batchpipe.config import allowed_errors
from batchpipe.errors import ConfigError, Interrupted, StoppedEarly
from batchpipe.job.fingerprint import check_unchanged
from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.lock import hold
from batchpipe.journal.manifest import Manifest, read_manifest
from batchpipe.journal.summary_file import summary_of
from batchpipe.planner.query.graph import INPUT
from batchpipe.rows.output_path import check_output, output_exists
from batchpipe.running.answering import TOO_MANY_ERRORS
from batchpipe.running.begin import input_states, real_path
from batchpipe.running.work import Work
from batchpipe.workflow.begin import Ready, begin, is_of, known_run, make_ready
from batchpipe.workflow.journal.journal import StepJournal
from batchpipe.workflow.journal.results import Results, Told, write_results
from batchpipe.workflow.journal.tallies import Tallies
from batchpipe.workflow.kinds.prepared import Prepared, prepared
from batchpipe.workflow.options import WorkflowOptions
from batchpipe.workflow.running.admission import Tables
from batchpipe.workflow.running.execute import LOADS, Execution
from batchpipe.workflow.running.models import Opening, on_workers, shown_name
from batchpipe.workflow.running.phases import Phases
from batchpipe.workflow.running.residents import OwnResidents, Residents
from batchpipe.workflow.running.runtime import Runtime
from batchpipe.workflow.step_progress import StepBars, WorkflowWatcher
from batchpipe.workflow.steps import Flow
from batchpipe.workflow.summary import WorkflowSummary


def run_workflow(
    flow: Flow, options: WorkflowOptions, *, watcher: WorkflowWatcher | None = None
) -> WorkflowSummary:
    """Every row of the results is in OUT; what was finished before is not computed again.

    Raises:
        ConfigError: before a model loads, for anything wrong with the workflow or the request
        StoppedEarly: after SIGTERM or Ctrl-C (`Interrupted`); what is finished is on disk
    """
    started = time.perf_counter()
    folder = open_folder(options.run_dir or f"{options.out}.run")
    known = _checked_places(folder, options)
    ready = make_ready(flow, options, known)
    finished = _finished(folder, ready, options)
    if finished is not None:
        print(f"{folder.name}: this run is complete, nothing to do", file=sys.stderr)
        return finished
    made = prepared(ready.lowered, ready.graph, ready.job_options, ready.languages)
    with made.closing, hold(folder) as lock:
        journal = begin(ready, folder, lock, options)
        tables = _tables(ready, made, journal)
        execution = _execution(ready, made, tables, journal, options, watcher or StepBars())
        execution.before += Work(plan_seconds=time.perf_counter() - started)
        stopped_by = execution.run()
        if stopped_by is not None:
            raise _stopped(stopped_by, journal, tables)
        check_unchanged(ready.source, journal.manifest.fingerprint["input"])
        told = _write(ready, made, tables, journal, options)
        summary = _summary(ready, execution, told, options)
        journal.record(facts=execution.facts())
        journal.finish(summary.as_json())
        return summary


def _checked_places(folder: Folder, options: WorkflowOptions) -> Manifest | None:
    """The run that is known already; OUT can be written, and is its own where it is there."""
    allowed_errors(options.max_errors, 0)
    if real_path(folder.name) == real_path(options.out):
        raise ConfigError(f"--run-dir {folder.name} is OUT itself; choose another directory")
    known = known_run(folder, options)
    own = known is not None and known.output == real_path(options.out)
    check_output(options.out, overwrite=options.overwrite or own, source=options.input)
    return known


def _finished(folder: Folder, ready: Ready, options: WorkflowOptions) -> WorkflowSummary | None:
    """The summary of this very run, where all of it is done; its input is looked at, not read."""
    known = None if options.overwrite else read_manifest(folder)
    if known is None or known.summary_digest is None or not output_exists(options.out):
        return None
    if known.output != real_path(options.out):
        return None
    if known.facts["input_states"] != input_states(options.input):
        return None
    if not is_of(known, ready):
        return None
    found = summary_of(folder, known)
    if found is None:
        return None
    summary = WorkflowSummary(**found)
    return replace(summary, exit_code=_exit_code(summary.failed, summary.rows, options))


def _tables(ready: Ready, made: Prepared, journal: StepJournal) -> Tables:
    graph = ready.graph
    read = {column for operator in graph.operators for column in operator.reads}
    wanted = read | {*ready.lowered.output.values()}
    columns = [name for name in ready.source.names if name in wanted]
    return Tables(made.levels, ready.source, columns, made.groups, journal)


def _execution(
    ready: Ready,
    made: Prepared,
    tables: Tables,
    journal: StepJournal,
    options: WorkflowOptions,
    watcher: WorkflowWatcher,
) -> Execution:
    facts = journal.manifest.facts
    residents = _residents(ready, made, options)
    tallies = Tallies((operator.name for operator in ready.graph.operators), facts)
    most_failed = None
    if options.max_errors is not None:
        most_failed = allowed_errors(options.max_errors, len(ready.source))
    return Execution(
        runtime=Runtime(made, tables, journal, residents, tallies),
        tables=tables,
        journal=journal,
        residents=residents,
        tallies=tallies,
        phases=Phases([phase.models for phase in ready.plan.placement.phases]),
        watcher=watcher,
        before=Work.of(facts),
        loads_before=int(facts.get(LOADS, 0)),
        most_failed=most_failed,
    )


def _residents(ready: Ready, made: Prepared, options: WorkflowOptions) -> Residents:
    """Who will have the models in memory: workers, or this process."""
    asked = {
        constraint: None
        for step in made.model_steps.values()
        for stage in range(len(step.models))
        if (constraint := step.sampling(stage).constraint) is not None
    }
    found, constraints, groups = ready.found, tuple(asked), len(made.model_steps)
    if options.workers is None or not found:
        return OwnResidents(Opening(found, constraints, groups))
    residents: Residents = on_workers().residents_of(
        found, ready.hardware, ready.plan, constraints, groups
    )
    return residents


def _write(
    ready: Ready,
    made: Prepared,
    tables: Tables,
    journal: StepJournal,
    options: WorkflowOptions,
) -> Told:
    table = made.levels.path(ready.graph.result_level)[0]
    rows = tables.rows(table)
    assert rows is not None, f"the rows of {table} are not known"
    results = Results(ready.source, journal, table, rows, list(ready.lowered.output))
    return write_results(results, ready.source, options.out, has_inputs=table == INPUT)


def _stopped(by: str, journal: StepJournal, tables: Tables) -> StoppedEarly:
    kind = Interrupted if by == signal.SIGINT.name else StoppedEarly
    why = f", {journal.failed:,} results of them failed" if by == TOO_MANY_ERRORS else ""
    return kind(
        f"stopped by {by} with {journal.finished(INPUT)} of {tables.rows(INPUT)} rows finished"
        f"{why} and on disk in {journal.folder.name}; the same command goes on from there"
    )


def _exit_code(failed: int, rows: int, options: WorkflowOptions) -> int:
    return 3 if failed > allowed_errors(options.max_errors, rows) else 0


def _summary(
    ready: Ready, execution: Execution, told: Told, options: WorkflowOptions
) -> WorkflowSummary:
    work, tallies = execution.work(), execution.tallies
    prompt_tokens, cached = tallies.total("prompt_tokens"), tallies.total("cached_tokens")
    devices = {model.device for model in ready.found.values()}
    spent = execution.residents.spent()
    return WorkflowSummary(
        rows=told.rows,
        succeeded=told.rows - told.failed,
        failed=told.failed,
        filtered=execution.journal.dropped,
        input_rows=len(ready.source),
        calls=tallies.total("calls"),
        collapsed=tallies.total("collapsed"),
        prompt_tokens=prompt_tokens,
        computed_prompt_tokens=prompt_tokens - cached,
        reused_prompt_tokens=cached,
        completion_tokens=tallies.total("completion_tokens"),
        steps=work.steps,
        preemptions=work.preemptions,
        swapped_tokens=work.swapped_tokens,
        restored_tokens=work.restored_tokens,
        loads=execution.loads_before + execution.residents.loads,
        plan_seconds=round(work.plan_seconds, 3),
        load_seconds=round(work.load_seconds, 3),
        run_seconds=round(work.run_seconds, 3),
        by_step=tallies.as_json(),
        models={name: shown_name(model.options.model) for name, model in ready.found.items()},
        device=", ".join(sorted(devices)),
        output=options.out,
        run_dir=execution.journal.folder.name,
        exit_code=_exit_code(told.failed, told.rows, options),
        workers=[worker.as_json() for worker in spent.workers],
        duplicated_prompt_tokens=spent.duplicated_prompt_tokens,
    )
