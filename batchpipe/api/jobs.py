"""The commands `run` and `plan` as functions: the same code, options as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack, overload

from batchpipe.api.keywords import (
    EngineKeywords,
    ModelKeywords,
    PlanKeywords,
    RunKeywords,
    SamplingKeywords,
    check_names,
    checked,
)
from batchpipe.api.llm import LLM, at_work
from batchpipe.api.model import Model, check_model
from batchpipe.api.sentences import python_words
from batchpipe.api.watching import watching
from batchpipe.config import JobOptions, PlanOptions, RunOptions
from batchpipe.errors import ConfigError
from batchpipe.explain.forecast_text import Preview
from batchpipe.explain.preview import preview
from batchpipe.job.forms import check_own_form
from batchpipe.running.job import run as run_job
from batchpipe.running.progress import Progress, Watcher
from batchpipe.running.summary import Summary
from batchpipe.workflow.builder import Workflow

if TYPE_CHECKING:
    from batchpipe.api.workflows import WorkflowKeywords
    from batchpipe.workflow.step_progress import WorkflowProgress
    from batchpipe.workflow.summary import WorkflowSummary


@overload
def run(
    input: str | os.PathLike[str],
    *,
    model: Model,
    out: str | os.PathLike[str],
    progress: bool | Callable[[Progress], object] = False,
    **options: Unpack[RunKeywords],
) -> Summary: ...


@overload
def run(
    input: str | os.PathLike[str],
    *,
    workflow: Workflow | str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: bool | Callable[[WorkflowProgress], object] = False,
    **options: Unpack[WorkflowKeywords],
) -> WorkflowSummary: ...


def run(
    input: str | os.PathLike[str],
    *,
    model: Model | None = None,
    workflow: Workflow | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    progress: Any = False,
    **options: Any,
) -> Summary | WorkflowSummary:
    """The command ``batchpipe run``: every row of the job file has its result row in ``out``.

    The same call goes on where a stopped run was. Options have the names of the command's, with
    underscores; ``seed`` is the run's.

    >>> import batchpipe as bp, json, pathlib, tempfile
    >>> from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with open(folder / "job.jsonl", "w") as job:
    ...     for ticket in load_tickets()[:3]:
    ...         print(json.dumps({"messages": messages(ticket.text)}), file=job)
    >>> done = bp.run(folder / "job.jsonl", model=MODEL_DIR, out=folder / "answers.parquet")
    >>> done.rows, done.succeeded, done.failed
    (3, 3, 0)

    Args:
        input: Parquet or JSON lines; file, directory, glob or URL
        model: an `LLM`, which stays open, or a model's name or directory
        workflow: in place of the model, a `Workflow` or its YAML file; see `Workflow.run`
        out: the results: .parquet, .jsonl, .jsonl.gz or .jsonl.zst
        progress: True shows it on stderr; a function is called with a `Progress`
        options: of the command

    Returns:
        What was done; ``failed`` counts the error rows, which are no exception.

    Raises:
        ConfigError: before the model loads, for anything wrong with the request
        StoppedEarly: after Ctrl-C (`Interrupted`), SIGTERM, a budget or ``max_errors``; what is
            finished is on disk
        BatchpipeError: the run failed
        TypeError: an unknown keyword, or what is no model
    """
    if workflow is not None:
        if model is not None:
            raise TypeError("run() takes a model or a workflow, whose models it names itself")
        flow = workflow if isinstance(workflow, Workflow) else Workflow.from_yaml(workflow)
        return flow.run(input, out=out, progress=progress, **options)
    if model is None:
        raise TypeError("run() needs a model, or a workflow")
    check_names("run", options, RunKeywords.__annotations__)
    check_model(model)
    given = checked(options)
    of_run = _taken(given, RunOptions)
    given["input"] = os.fspath(input)
    return run_with(model, _job(given), of_run | {"out": os.fspath(out)}, watching(progress))


def plan(
    input: str | os.PathLike[str],
    *,
    model: Model,
    **options: Unpack[PlanKeywords],
) -> Preview:
    """The command ``batchpipe plan``: what a run would compute, share, need and cost.

    Nothing is run, and no weights are loaded.

    >>> import batchpipe as bp, json, pathlib, tempfile
    >>> from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with open(folder / "job.jsonl", "w") as job:
    ...     for ticket in load_tickets()[:3]:
    ...         print(json.dumps({"messages": messages(ticket.text)}), file=job)
    >>> preview = bp.plan(folder / "job.jsonl", model=MODEL_DIR, max_tokens=48)
    >>> preview.rows, preview.prompt_tokens, preview.shareable_prompt_tokens
    (3, 2495, 1568)

    Args:
        input: as `run`; also a length trace
        model: an `LLM`, whose options count, or a model's name or directory
        options: of the command

    Raises:
        ConfigError: for anything wrong with the request
        TypeError: an unknown keyword, or what is no model
    """
    check_names("plan", options, PlanKeywords.__annotations__)
    check_model(model)
    given = checked(options)
    of_plan = _taken(given, PlanOptions)
    given["input"] = os.fspath(input)
    with python_words():
        if isinstance(model, LLM):
            with at_work(model) as loaded:
                _refuse_for(model, given)
                job = replace(loaded.options, **_job(given))
        else:
            job = JobOptions(**_job(given), model=os.fspath(model))
        return preview(job, PlanOptions(**of_plan))


def run_with(
    model: Model, of_job: dict[str, Any], of_run: dict[str, Any], watcher: Watcher
) -> Summary:
    """The run of these options, by the model that is loaded or by one that will be.

    Raises:
        ConfigError: also where options of the model are given beside an `LLM`
    """
    if not isinstance(model, LLM):
        with python_words():
            options = JobOptions(**of_job, model=os.fspath(model))
            return run_job(options, RunOptions(**of_run), watcher=watcher)
    with at_work(model) as loaded:
        _refuse_for(model, of_job | of_run)
        check_own_form(of_job["sampling"])
        options = replace(loaded.options, **of_job)
        backend = replace(loaded.backend, options=options)
        run_options = replace(loaded.run_options, **of_run)
        return run_job(options, run_options, backend=backend, watcher=watcher)


def _taken(given: dict[str, Any], kind: type[RunOptions | PlanOptions]) -> dict[str, Any]:
    """The options of this kind, which are then no longer among those given."""
    return {name: given.pop(name) for name in kind.__dataclass_fields__ if name in given}


def _job(given: dict[str, Any]) -> dict[str, Any]:
    """The same with what is about sampling in one place; `seed` is the run's own."""
    sampling = {name: given.pop(name) for name in SamplingKeywords.__annotations__ if name in given}
    return {**given, "sampling": {n: value for n, value in sampling.items() if value is not None}}


def _refuse_for(llm: LLM, given: Collection[str]) -> None:
    """Raise `ConfigError` for what an LLM was loaded with, and what only other engines need."""
    for name in given:
        if name in (*ModelKeywords.__annotations__, *EngineKeywords.__annotations__):
            raise ConfigError(f"{name} belongs to the LLM, which is loaded; leave it out here")
