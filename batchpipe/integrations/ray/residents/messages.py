"""What driver and hosts of models say to each other, beside what all workers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from batchpipe.config import JobOptions
from batchpipe.planner.request import Constraint, TokenIds
from batchpipe.running.live import Request


@dataclass(frozen=True, slots=True)
class HostedModel:
    """How a model is loaded."""

    options: JobOptions  # whose device is the worker's own
    dtype: str | None
    step_tokens: int | None


@dataclass(frozen=True, slots=True, eq=False)
class HostSetup:
    """What a host has to know before its first model."""

    models: Mapping[str, HostedModel]  # all that it may be asked to load
    threads: int  # on a CPU
    memory_share: float  # of the memory that is free, where a model's kv_memory names none
    constraints: tuple[Constraint, ...]  # of all answers
    groups: int  # of prompts whose answers are alike in length


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What one model is asked, and told of what is to come."""

    model: str
    requests: tuple[Request, ...] = ()
    heads: tuple[tuple[TokenIds, bool], ...] = ()  # with which prompts are still to come, or not
    forgotten: tuple[int, ...] = ()  # tickets that one prompt less than announced follows
