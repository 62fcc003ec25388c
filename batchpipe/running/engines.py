"""What may answer the prompts of a plan: our own engine, vLLM in this process, or a server.

A *backend* is what `--engine` names: reached or found, with nothing loaded. It opens a plan, and
what answers it then is an *engine*, ours or another. None of them knows rows, journals or results.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from batchpipe.config import ENGINES, JobOptions, RunOptions
from batchpipe.engine.answer import Answer
from batchpipe.errors import ConfigError
from batchpipe.job.collection import collection_paused
from batchpipe.job.language import Language
from batchpipe.job.plan_job import Target
from batchpipe.job.prepare import Job
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.counts import Counts
from batchpipe.rows.words import one_line
from batchpipe.running.engine_options import check_engine_options
from batchpipe.running.worker_spent import WorkerSpent
from batchpipe.structured.judge import Matches, matches_by_re

# Each has a function `connect(options, run_options) -> Backend`, and alone imports its package.
MODULES = {
    "batchpipe": "batchpipe.running.own_engine",
    "openai": "batchpipe.integrations.server",
    "vllm": "batchpipe.integrations.vllm",
}
ON_WORKERS = "batchpipe.integrations.ray.backend"  # the first of them, several times


@dataclass(frozen=True, slots=True)
class Spent:
    """What an engine has done so far, as far as it can tell."""

    counts: Counts = field(default_factory=Counts)
    memory_shortages: int = 0  # steps that were out of memory and ran in pieces
    most_tokens: int | None = None  # of a forward pass since the last of them
    kv_tokens: int = 0  # that its KV memory holds now
    workers: tuple[WorkerSpent, ...] = ()  # each of them, where there are several
    duplicated_prompt_tokens: int = 0  # that more than one of them computed, each time but one


class Engine(Protocol):
    """Answers the prompts of the plan that it was opened with."""

    def steps(self) -> Generator[list[Answer], None, None]:
        """Each step gives the answers that it finished, often none; every prompt is answered once.

        A step takes seconds at most: between two of them the caller may stop, and close it.

        Raises:
            StoppedEarly: it can answer no more; another process goes on
        """

    def spent(self) -> Spent:
        """Tokens and steps so far."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An engine that is ready to answer a plan."""

    engine: Engine
    job: Job  # as it was given, save for rows that turned out not to fit: they are faults
    plan: Plan  # of that job
    facts: Mapping[str, object] = field(default_factory=dict)  # for the plan's file
    kv_tokens: int = 0  # that its KV memory holds; 0 where it does not tell
    expected_seconds: float = 0.0  # by the machine's profile; 0 where there is none
    matches: Matches = matches_by_re  # what knows the rows' regular expressions and grammars


class Backend(Protocol):
    """What `--engine` names, ready to be opened."""

    @property
    def options(self) -> JobOptions:
        """As given, with what only it could tell filled in."""

    @property
    def context(self) -> int | None:
        """Tokens of prompt and answer that it takes; None: as many as the model."""

    def computing(self, config: Any) -> tuple[str, str | None]:
        """Where the answers are computed, and in which dtype where that is known here.

        Raises:
            ConfigError: the device that was asked for is not there
        """

    def target(self, language: Language, dtype: str | None) -> Target | None:
        """The machine that it answers on, to plan for; None where that is not known.

        Raises:
            ConfigError: it cannot answer with this model, or not with its weights as asked
        """

    def open(self, job: Job, plan: Plan, language: Language, target: Target | None) -> Opened:
        """The model is loaded and the plan may be answered.

        Raises:
            ConfigError: the model cannot be loaded, or has no room
        """


Connect = Callable[[JobOptions, RunOptions], Backend]


def connect(options: JobOptions, run_options: RunOptions) -> Backend:
    """The backend that the options name, looked for before anything else is.

    Raises:
        ConfigError: its package is missing or broken, it does not answer, or the options make no
            sense for it
    """
    check_engine_options(options, run_options)
    module, package = MODULES[options.engine], options.engine
    if run_options.workers is not None:
        module, package = ON_WORKERS, "ray"
    try:
        with collection_paused():
            connect_to: Connect = import_module(module).connect
        return connect_to(options, run_options)
    except ImportError as error:
        if package == ENGINES[0]:  # what it imports comes with batchpipe
            raise
        asked = "--workers" if package == "ray" else f"--engine {package}"
        raise missing(asked, package, error) from error


def missing(asked: str, package: str, error: ImportError) -> ConfigError:
    """What was asked for needs a package that is not there, with the line that installs it."""
    absent = isinstance(error, ModuleNotFoundError) and error.name == package
    why = "is not installed" if absent else f"cannot be imported ({one_line(str(error))})"
    return ConfigError(
        f"{asked} needs the package {package}, which {why}: pip install 'batchpipe[{package}]'"
    )


def computing(options: JobOptions, config: Any) -> tuple[str, str | None]:
    """Where the answers are computed, and in which dtype where that is known here.

    Raises:
        ConfigError: the device that was asked for is not there
    """
    if options.engine == "openai":
        return str(options.base_url), None
    from batchpipe.engine.model import choose_device, choose_dtype  # a server needs no torch here

    device = choose_device(options.device)
    return device.type, choose_dtype(options.dtype, config, device)
