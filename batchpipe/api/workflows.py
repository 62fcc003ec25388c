"""The command `run --workflow` as a function: options as keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from batchpipe.api.keywords import check_names, checked
from batchpipe.api.sentences import python_words
from batchpipe.workflow.command import run_workflow
from batchpipe.workflow.options import WorkflowOptions
from batchpipe.workflow.step_progress import (
    StepBars,
    ToldSteps,
    UnwatchedSteps,
    WorkflowProgress,
    WorkflowWatcher,
)
from batchpipe.workflow.steps import Flow
from batchpipe.workflow.summary import WorkflowSummary

Progress = bool | Callable[[WorkflowProgress], object]


class WorkflowKeywords(TypedDict, total=False):
    """What a workflow's run takes; what its models say of themselves goes first."""

    run_dir: str | os.PathLike[str] | None
    overwrite: bool
    max_errors: str | int | None
    limit: int | None
    seed: int
    kv_memory: str | int
    host_kv_memory: str | int
    dtype: str
    device: str
    tensor_parallel: int
    workers: int | None
    ray_address: str | None


def run_flow(
    flow: Flow,
    input: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Progress,
    given: Mapping[str, Any],
) -> WorkflowSummary:
    """Every row of the results is in ``out``; see `batchpipe.Workflow.run`."""
    check_names("run", given, WorkflowKeywords.__annotations__)
    options = checked(given)
    with python_words():
        asked = WorkflowOptions(input=os.fspath(input), out=os.fspath(out), **options)
        return run_workflow(flow, asked, watcher=_watching(progress))


def _watching(progress: Progress) -> WorkflowWatcher:
    """True: stderr, as for the command. A function: that. False: nobody."""
    if progress is True:
        return StepBars()
    if progress is False:
        return UnwatchedSteps()
    if not callable(progress):
        raise TypeError(f"progress must be True, False or a function, not {progress!r}")
    return ToldSteps(progress)
