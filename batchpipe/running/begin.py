"""Begins a run or goes on with one: what the run directory holds decides which rows are left."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from batchpipe.config import JobOptions, RetryOptions, RunOptions
from batchpipe.errors import ConfigError
from batchpipe.explain.layout import time_text
from batchpipe.job.asked_rows import ROWS, Asking, packed_rows
from batchpipe.job.fingerprint import (
    InputDigest,
    differences,
    input_digest,
    settings_fingerprint,
)
from batchpipe.job.history import load_history
from batchpipe.job.language import Language, load_config, load_language
from batchpipe.job.plan_job import Target, plan_job
from batchpipe.job.prepare import Job, open_job, prepare
from batchpipe.job.remaining import Remaining
from batchpipe.job.row_sampling import parameter_columns
from batchpipe.journal.folder import Folder
from batchpipe.journal.journal import Journal
from batchpipe.journal.lock import Lock
from batchpipe.journal.manifest import Manifest, Outdated, read_manifest
from batchpipe.planner.plan import Plan
from batchpipe.rows.location import find_files, local_path, state_of
from batchpipe.rows.source import Source
from batchpipe.rows.template import Template
from batchpipe.running.engines import Backend, connect

OF_THE_INPUT = ("rows", "input")  # the parts of a fingerprint that only reading all of it tells


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A job that may run, the model's language, and what it will run on."""

    options: JobOptions  # with what only the backend could tell filled in
    source: Source
    template: Template | None
    language: Language
    backend: Backend
    device: str  # a kind of device, or a server's URL
    dtype: str | None  # None where only a server knows
    target: Target | None  # None where the machine is not known
    settings: dict[str, Any]  # the fingerprint, save for the input's rows

    @property
    def parameter_columns(self) -> tuple[str, ...]:
        """The columns that may say how their row is asked."""
        return parameter_columns(self.options, self.source.names, self.template)


@dataclass(frozen=True, slots=True, eq=False)
class Begun:
    """What is left to run, and the journal that it goes to."""

    job: Job
    plan: Plan
    journal: Journal


def make_ready(
    options: JobOptions, run_options: RunOptions, backend: Backend | None = None
) -> Ready:
    """Everything checked that can be before the rows are read, short of the weights.

    ``backend`` is the one that the options name, None where it is still to be looked for.
    """
    if backend is None:
        backend = connect(options, run_options)
    options = backend.options
    source, template = open_job(options)
    config = load_config(options)
    device, dtype = backend.computing(config)
    language = load_language(options, config).within(backend.context)
    target = backend.target(language, dtype)
    settings = settings_fingerprint(options, template, config, dtype)
    return Ready(options, source, template, language, backend, device, dtype, target, settings)


def begin(
    ready: Ready,
    folder: Folder,
    lock: Lock,
    run_options: RunOptions,
    retry: RetryOptions | None = None,
) -> Begun:
    """The run directory is this run's, and what it lacks is prepared and planned.

    Raises:
        ConfigError: the directory holds a run of something else, and how it differs
    """
    options = ready.options
    known = known_run(folder, run_options)
    if known is None or _is_barren(known):
        return _begin_anew(ready, folder, lock, run_options)
    states = input_states(options.input)
    found = {**ready.settings, "rows": len(ready.source), "input": known.fingerprint["input"]}
    _refuse_other(folder, known, found)
    if known.facts["input_states"] != states:
        _refuse_other(folder, known, {**found, "input": input_digest(ready.source)})
    journal = Journal.open(folder, known, lock)
    journal.record(facts={**known.facts, "input_states": states})
    if retry is None:
        journal.record(output=real_path(run_options.out), command=_command(options, run_options))
    for sentence in journal.damaged:
        print(f"{folder.name}: {sentence}", file=sys.stderr)
    if retry is not None:
        _select(journal, retry)
    repairs = ({}, *(repair.overrides for repair in journal.manifest.repairs))
    remaining = Remaining(~journal.done(), journal.required_repair(), repairs)
    job = prepare(
        options,
        ready.source,
        ready.template,
        ready.language,
        remaining=remaining,
        spill_folder=local_path(folder.name),
    )
    return Begun(*_planned(job, ready), journal)


def known_run(folder: Folder, run_options: RunOptions) -> Manifest | None:
    """The run that the directory holds and that is not to be discarded."""
    try:
        known = read_manifest(folder)
    except Outdated:
        if not run_options.overwrite:
            raise
        return None
    if run_options.overwrite or known is None:
        return None
    refuse_workflow(folder, known)
    return known


def refuse_workflow(folder: Folder, known: Manifest) -> None:
    """Raise where the run is one of a workflow, whose steps ask its rows."""
    if "workflow" in known.command:
        raise ConfigError(
            f"{folder.name} holds a run of a workflow; the command that made it goes on with it, "
            f"and --overwrite or another --run-dir begins another run"
        )


def _begin_anew(ready: Ready, folder: Folder, lock: Lock, run_options: RunOptions) -> Begun:
    options = ready.options
    digest, asking = InputDigest(), Asking()
    job = prepare(
        options,
        ready.source,
        ready.template,
        ready.language,
        digest=digest,
        asking=asking,
        spill_folder=local_path(folder.name),
    )
    job, plan = _planned(job, ready)
    manifest = Manifest(
        fingerprint={**ready.settings, "rows": len(ready.source), "input": str(digest)},
        output=real_path(run_options.out),
        command=_command(options, run_options),
        rows=len(ready.source),
        facts={
            "input_states": input_states(options.input),
            "skipped": len(job.skipped),
            "duplicates": plan.duplicates,
            "shareable_prompt_tokens": plan.shareable_prompt_tokens,
        },
    )
    journal = Journal.create(folder, manifest, lock)
    journal.keep(ROWS, packed_rows(asking.asked(), manifest.fingerprint))
    return Begun(job, plan, journal)


def _planned(job: Job, ready: Ready) -> tuple[Job, Plan]:
    options = ready.options
    history = load_history(options.model, options.template)
    return plan_job(job, options.order, ready.target, history=history)


def input_states(spec: str) -> list[list[str]]:
    """By what a change of the input is seen without reading it."""
    return [[location.name, state_of(location)] for location in find_files(spec)]


def real_path(out: str) -> str:
    """OUT's name from any directory."""
    path = local_path(out)
    return out if path is None else os.path.realpath(path)


def _command(options: JobOptions, run_options: RunOptions) -> dict[str, Any]:
    """The options in a form that means the same from any directory."""
    template = options.template
    if template is not None and template.startswith("@"):
        template = f"@{Path(template[1:]).absolute()}"
    model = Path(options.model)
    job = replace(
        options,
        input=_absolute(options.input),
        model=str(model.absolute()) if model.is_dir() else options.model,
        model_called=options.model_called or options.model,
        template=template,
    )
    run = replace(
        run_options,
        out=_absolute(run_options.out),
        run_dir=_absolute(run_options.run_dir or f"{run_options.out}.run"),
        overwrite=False,
    )
    return {"job": asdict(job), "run": asdict(run)}


def _absolute(url: str) -> str:
    path = local_path(url)
    return url if path is None else os.path.abspath(path)


def _is_barren(known: Manifest) -> bool:
    """True where the run ended before it had a result: its model had no weights, say."""
    return not known.parts


def _refuse_other(folder: Folder, known: Manifest, fingerprint: Mapping[str, Any]) -> None:
    """Raise where the run is of something else, with what that is and what it would cost."""
    changed = differences(known.fingerprint, fingerprint)
    if not changed:
        return
    rows = sum(part.rows for part in known.parts)
    seconds = sum(session.seconds for session in known.sessions)
    raise ConfigError(
        f"{folder.name} holds a run of something else: {'; '.join(changed)}. {rows:,} of its "
        f"{known.rows:,} rows are finished, the work of {time_text(seconds)}. Give --overwrite to "
        f"discard them and compute all rows, or another --run-dir"
    )


def _select(journal: Journal, retry: RetryOptions) -> None:
    """The rows that `retry` asks for are to be computed once more."""
    repairs = journal.manifest.repairs
    if repairs and repairs[-1].asked == str(retry) and not journal.done().all():
        return  # it was stopped and goes on
    selected = journal.select(set(retry.statuses), set(retry.finish_reasons))
    if len(selected):
        journal.begin_repair(selected, retry.overrides, str(retry))
    print(f"{len(selected):,} rows of {journal.rows:,} are asked once more", file=sys.stderr)
