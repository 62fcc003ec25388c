"""What driver and workers say to each other. Knows nothing of Ray."""

from __future__ import annotations

from dataclasses import dataclass

from batchpipe.config import JobOptions
from batchpipe.engine.answer import Answer
from batchpipe.errors import BatchpipeError
from batchpipe.planner.request import Constraint, Prompts, Sampling, TokenIds
from batchpipe.running.engines import Spent


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker has to know before its first prompt."""

    options: JobOptions  # whose device is the worker's own
    dtype: str | None
    step_tokens: int | None
    threads: int  # on a CPU
    memory_share: float  # of the memory that is free, where --kv-memory names none
    most_blocks: int  # of KV that all prompts could use
    constraints: tuple[Constraint, ...]  # of all answers
    groups: int  # of prompts whose answers are alike in length


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker has its model."""

    where: str  # name of the machine
    kv_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Prompts for one worker, and what is told of each."""

    indices: tuple[int, ...]  # in the plan
    prompts: Prompts
    samplings: tuple[Sampling, ...]
    names: tuple[str, ...]  # with the run's seed they name the random numbers
    samples: tuple[int, ...]  # which of its row's n samples a prompt is
    groups: tuple[int, ...]
    heads: tuple[TokenIds, ...] = ()  # with which prompts begin that are likely to follow


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What a worker has done since the report before."""

    answers: tuple[Answer, ...]  # by index in the plan
    spent: Spent  # since it was loaded
    busy_seconds: float
    waiting: int  # prompts that it has and does not run yet
    fault: BatchpipeError | None = None  # why it can do no more
