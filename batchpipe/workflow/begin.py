"""Begins a run of a workflow or goes on with one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.explain.layout import time_text
from batchpipe.job.fingerprint import input_digest
from batchpipe.job.language import Language
from batchpipe.journal.folder import Folder
from batchpipe.journal.lock import Lock
from batchpipe.journal.manifest import Manifest, Outdated, read_manifest
from batchpipe.planner.query.graph import QueryGraph
from batchpipe.planner.query.planning import Hardware, QueryPlan, plan_query
from batchpipe.rows.source import Source, open_source
from batchpipe.running.begin import input_states, real_path
from batchpipe.workflow.journal.fingerprint import changed, settings_fingerprint
from batchpipe.workflow.journal.journal import StepJournal
from batchpipe.workflow.journal.tallies import BY_STEP
from batchpipe.workflow.lowering.call_costs import call_costs
from batchpipe.workflow.lowering.counting import counted
from batchpipe.workflow.lowering.hardware import hardware_of
from batchpipe.workflow.lowering.input_columns import input_types
from batchpipe.workflow.lowering.lower import Lowered, lowered
from batchpipe.workflow.options import WorkflowOptions
from batchpipe.workflow.running.models import (
    FoundModel,
    find_models,
    memory_bytes,
    on_workers,
    resolved,
)
from batchpipe.workflow.steps import Flow

WORKFLOW = "workflow"  # the command of a run of one, in the manifest


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A workflow that may run over its input, with its models found and nothing loaded."""

    source: Source
    lowered: Lowered
    hardware: Hardware
    plan: QueryPlan
    found: dict[str, FoundModel]
    settings: dict[str, Any]  # the fingerprint, save for the input's rows

    @property
    def graph(self) -> QueryGraph:
        """The workflow's operators after the rules."""
        return self.plan.graph

    @property
    def job_options(self) -> dict[str, JobOptions]:
        """How each model is loaded."""
        return {name: model.options for name, model in self.found.items()}

    @property
    def languages(self) -> dict[str, Language]:
        """How text becomes tokens for each model."""
        return {name: model.language for name, model in self.found.items()}


def make_ready(flow: Flow, options: WorkflowOptions, known: Manifest | None) -> Ready:
    """Everything checked that can be before the rows are read, short of the weights.

    What calls have taken in a run that is known already is what they are expected to take.

    Raises:
        ConfigError: the input, the workflow or one of its models is wrong
    """
    source = open_source(options.input, limit=options.limit)
    flow = resolved(flow, options.of_models(), options.model)
    checked = lowered(flow, input_types(source, flow))
    found = find_models(flow, options.workers, options.ray_address)
    settings = settings_fingerprint(flow, found, options.limit)
    measured = {} if known is None else known.facts.get(BY_STEP, {})
    hardware = _hardware(checked, found, options.workers, measured)
    plan = _planned(checked, source, found, hardware)
    return Ready(source, checked, hardware, plan, found, settings)


def _hardware(
    checked: Lowered,
    found: Mapping[str, FoundModel],
    workers: int | None,
    measured: Mapping[str, Mapping[str, Any]],
) -> Hardware:
    """What is free now, rather than what such machines have."""
    languages = {name: model.language for name, model in found.items()}
    options = {name: model.options for name, model in found.items()}
    devices = {name: model.device for name, model in found.items()}
    costs = call_costs(checked.flow, checked.graph, measured)
    hardware = hardware_of(options, devices, languages, costs)
    if not found:
        return hardware
    if workers is not None:
        return replace(hardware, device_bytes=on_workers().worker_bytes(found), workers=workers)
    device = next(iter(found.values())).device
    return replace(hardware, device_bytes=memory_bytes(device))


def _planned(
    checked: Lowered, source: Source, found: Mapping[str, FoundModel], hardware: Hardware
) -> QueryPlan:
    languages = {name: model.language for name, model in found.items()}
    statistics = counted(checked, source, languages)
    try:
        return plan_query(checked.graph, statistics, hardware)
    except ValueError as error:
        raise ConfigError(f"{checked.flow.source}: {error}") from error


def begin(ready: Ready, folder: Folder, lock: Lock, options: WorkflowOptions) -> StepJournal:
    """The run directory is this run's, empty or with what is known already.

    Raises:
        ConfigError: the directory holds a run of something else, and how it differs
    """
    known = known_run(folder, options)
    if known is None or not known.parts:
        return StepJournal.create(folder, _manifest(ready, options), lock)
    refuse_other(folder, known, ready, options)
    journal = StepJournal.open(folder, known, lock)
    journal.record(
        facts={**known.facts, "input_states": input_states(options.input)},
        output=real_path(options.out),
        command=_command(ready, options),
    )
    for sentence in journal.damaged:
        print(f"{folder.name}: {sentence}", file=sys.stderr)
    return journal


def known_run(folder: Folder, options: WorkflowOptions) -> Manifest | None:
    """The run that the directory holds and that is not to be discarded."""
    try:
        known = read_manifest(folder)
    except Outdated:
        if not options.overwrite:
            raise
        return None
    return None if options.overwrite else known


def refuse_other(folder: Folder, known: Manifest, ready: Ready, options: WorkflowOptions) -> None:
    """Raise where the run is of something else, with what that is and what it would cost."""
    if WORKFLOW not in known.command:
        raise ConfigError(
            f"{folder.name} holds a run without a workflow; give --overwrite to discard it, or "
            f"another --run-dir"
        )
    rows = {"rows": len(ready.source), "input": known.fingerprint["input"]}
    if known.facts["input_states"] != input_states(options.input):
        rows["input"] = input_digest(ready.source)
    found = changed(known.fingerprint, {**ready.settings, **rows})
    if found:
        finished = sum(part.rows for part in known.parts)
        seconds = sum(session.seconds for session in known.sessions)
        raise ConfigError(
            f"{folder.name} holds a run of something else: {'; '.join(found)}. {finished:,} of "
            f"its {known.rows:,} rows are finished, the work of {time_text(seconds)}. Give "
            f"--overwrite to discard them and compute all rows, or another --run-dir"
        )


def is_of(known: Manifest, ready: Ready) -> bool:
    """True where the run is of this very workflow, its rows aside."""
    settings = {n: part for n, part in known.fingerprint.items() if n not in ("rows", "input")}
    return settings == ready.settings


def _manifest(ready: Ready, options: WorkflowOptions) -> Manifest:
    rows = len(ready.source)
    digest = input_digest(ready.source)
    return Manifest(
        fingerprint={**ready.settings, "rows": rows, "input": digest},
        output=real_path(options.out),
        command=_command(ready, options),
        rows=rows,
        facts={"input_states": input_states(options.input)},
    )


def _command(ready: Ready, options: WorkflowOptions) -> dict[str, Any]:
    """What was asked, and the steps as they are asked, for the report."""
    graph = ready.graph
    steps = [
        {
            "name": each.name,
            "kind": each.kind,
            "level": each.level,
            "makes": each.makes,
            "models": list(each.models),
            "needs": [source.name for source in graph.sources(each)],
        }
        for each in graph.operators
    ]
    models = {name: model.options.model for name, model in ready.found.items()}
    return {WORKFLOW: {"steps": steps, "models": models}, "run": asdict(options)}
