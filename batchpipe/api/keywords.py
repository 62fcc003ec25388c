"""Keyword arguments as the options of a job: their names, their types, and which values they take.

The names and meanings are those of the command's options, with underscores.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypedDict

from batchpipe.api.forms import plain_forms
from batchpipe.config import DEVICES, DTYPES, ENGINES, ON_TOO_LONG, QUANTIZE, SPECULATE
from batchpipe.errors import ConfigError
from batchpipe.planner.order import ORDERS
from batchpipe.rows.words import shown


class SamplingKeywords(TypedDict, total=False):
    """How answers are drawn: see `batchpipe.SamplingParams`."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    n: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None
    prompt_logprobs: int | None
    choices: Sequence[str] | str | None
    schema: object  # a JSON Schema as a dict, text or file, a pydantic model, or 'name, age int'
    regex: str | None
    grammar: str | os.PathLike[str] | None


class ModelKeywords(TypedDict, total=False):
    """How a model is loaded: see `batchpipe.LLM`."""

    dtype: str
    device: str
    tensor_parallel: int
    kv_memory: str | int
    host_kv_memory: str | int
    max_model_len: int | None
    quantize: str | None
    step_tokens: int | None
    machine: str | None
    revision: str | None
    trust_remote_code: bool


class EngineKeywords(TypedDict, total=False):
    """Which engine answers, if not batchpipe's own."""

    engine: str
    base_url: str | None
    served_model: str | None
    api_key_env: str | None
    concurrency: int | None
    workers: int | None
    ray_address: str | None


class JobKeywords(SamplingKeywords, ModelKeywords, total=False):
    """What `batchpipe.run` and `batchpipe.plan` share."""

    template: str | None
    prompt_column: str | None
    id_column: str | None
    limit: int | None
    seed: int
    order: str
    speculate: str
    on_too_long: str
    served_model_names: Sequence[str] | None
    price_per_hour: float | None


class RunKeywords(JobKeywords, EngineKeywords, total=False):
    """What `batchpipe.run` takes."""

    run_dir: str | os.PathLike[str] | None
    overwrite: bool
    max_errors: str | int | None
    with_token_ids: bool
    budget_hours: float | None
    budget_cost: float | None


class PlanKeywords(JobKeywords, total=False):
    """What `batchpipe.plan` takes."""

    simulate: bool
    compare: bool
    against: str | os.PathLike[str] | None
    out: str | os.PathLike[str] | None


CHOICES: dict[str, tuple[str | None, ...]] = {
    "dtype": DTYPES,
    "device": DEVICES,
    "quantize": (None, *QUANTIZE),
    "order": tuple(ORDERS),
    "speculate": SPECULATE,
    "on_too_long": ON_TOO_LONG,
    "engine": ENGINES,
}
COUNTS = ("limit", "max_model_len", "step_tokens", "workers", "tensor_parallel")  # 1 or more
# As the command line has them.
TEXTS = ("kv_memory", "host_kv_memory", "max_errors", "run_dir", "out", "against", "model")


def check_names(function: str, given: Collection[str], known: Collection[str]) -> None:
    """Every keyword is known; `TypeError` with the nearest that is."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the command line has them; `ConfigError` naming one that cannot be."""
    options: dict[str, Any] = {}
    for name, value in plain_forms(given).items():
        if name in CHOICES and value not in CHOICES[name]:
            allowed = ", ".join(map(str, CHOICES[name]))
            raise ConfigError(f"{name} is {shown(value)}; it must be one of {allowed}")
        if name == "seed" and type(value) is not int:
            raise ConfigError(f"seed is {shown(value)}; it must be a whole number")
        if name in COUNTS and value is not None and not (type(value) is int and value >= 1):
            raise ConfigError(f"{name} is {shown(value)}; it must be a whole number of 1 or more")
        options[name] = str(value) if name in TEXTS and value is not None else value
    return options
