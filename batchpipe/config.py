"""What a user asked for, checked and frozen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batchpipe.errors import ConfigError

ENGINES = ("batchpipe", "openai", "vllm")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
QUANTIZE = ("int8", "int4", "float8")
STATUSES = ("success", "error", "invalid_output")
FINISH_REASONS = ("stop", "length")
SPECULATE = ("auto", "off")
ON_TOO_LONG = ("error", "skip", "truncate-left")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What `plan` and `run` share: which rows, which model, how to ask and how to order."""

    input: str
    model: str
    template: str | None = None
    prompt_column: str | None = None
    id_column: str | None = None
    limit: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)  # given options only
    row_sampling: bool = True  # columns named like sampling parameters are such
    seed: int = 0
    order: str = "planned"
    kv_memory: str = "auto"
    host_kv_memory: str = "auto"  # or 0, for none
    dtype: str = "auto"
    quantize: str | None = None  # one of `QUANTIZE`; None leaves the weights as they are
    device: str = "auto"
    tensor_parallel: int = 1  # devices of a machine that share the model
    on_too_long: str = "error"
    revision: str | None = None
    trust_remote_code: bool = False
    speculate: str = "auto"
    machine: str | None = None
    price_per_hour: float | None = None
    engine: str = ENGINES[0]
    base_url: str | None = None
    served_model: str | None = None
    api_key_env: str | None = None  # the variable's name; the key itself is kept nowhere
    concurrency: int | None = None
    batch_lines: bool = False  # the input must be OpenAI batch lines
    served_model_names: Sequence[str] | None = None  # what such lines call the model
    model_called: str | None = None  # `model` as it was given, where that is another text by now
    max_model_len: int | None = None  # tokens of prompt and answer, where less than the model's

    @property
    def model_names(self) -> tuple[str, ...]:
        """What a request may call the model; the first is what its answer calls it."""
        called = (self.model_called, self.model, self.served_model)
        return tuple(name for name in (*(self.served_model_names or ()), *called) if name)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What only `run` needs: where the answers go and when to stop."""

    out: str
    run_dir: str | None = None
    overwrite: bool = False
    max_errors: str | None = None  # None: none are tolerated, and none end the run early
    step_tokens: int | None = None
    with_token_ids: bool = False
    budget_hours: float | None = None
    budget_cost: float | None = None
    workers: int | None = None  # Ray actors with a model each; None: this process
    ray_address: str | None = None  # None: Ray starts on this machine for the run


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """What only `retry` needs: which rows of a run are asked once more, and how."""

    statuses: tuple[str, ...] = ()  # rows with one of these statuses
    finish_reasons: tuple[str, ...] = ()  # and rows with one of these finish reasons
    overrides: dict[str, Any] = field(default_factory=dict)  # sampling parameters
    max_errors: str | None = None
    base_url: str | None = None  # where the run's server is by now; None: where it was

    def __str__(self) -> str:
        options = {
            "--status": sorted(self.statuses),
            "--finish-reason": sorted(self.finish_reasons),
        }
        chosen = [f"{name} {','.join(given)}" for name, given in options.items() if given]
        settings = [f"--set {n}={json.dumps(self.overrides[n])}" for n in sorted(self.overrides)]
        return " ".join([*chosen, *settings])


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What only `plan` needs: how much of the job to simulate, and where the plan goes."""

    simulate: bool = False
    compare: bool = False
    out: str | None = None
    step_tokens: int | None = None
    against: str | None = None  # a run directory: plan only what its answers do not serve


def parse_bytes(text: str, option: str = "--kv-memory", *, none_allowed: bool = False) -> int:
    """Bytes of ``4GB``, ``512MiB`` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in UNITS:
        raise ConfigError(
            f"{option} {text!r} is no amount of memory; write for example 4GB or auto"
        )
    amount = int(float(match[1]) * UNITS[match[2].upper()])
    if amount <= 0 and not none_allowed:
        raise ConfigError(f"{option} {text!r} must be more than nothing")
    return amount


def parse_host_bytes(text: str) -> int | None:
    """Bytes that ``--host-kv-memory`` names, which may be none; None for ``auto``."""
    return None if text == "auto" else parse_bytes(text, "--host-kv-memory", none_allowed=True)


def dtype_text(dtype: str, quantize: str | None) -> str:
    """What a model computes in, as a person reads it: ``bfloat16 with int8 weights``."""
    return dtype if quantize is None else f"{dtype} with {quantize} weights"


def written_bytes(amount: int) -> str:
    """So many bytes or a little more, as `parse_bytes` reads them: ``1.3GB``."""
    for unit in ("TB", "GB", "MB", "KB"):
        if amount >= UNITS[unit]:
            return f"{math.ceil(amount * 10 / UNITS[unit]) / 10:g}{unit}"
    return str(amount)


def allowed_errors(max_errors: str | None, rows: int) -> int:
    """Error rows that ``--max-errors`` (a count or ``5%``) tolerates among so many rows."""
    if max_errors is None:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", max_errors.strip())
    if match is None or (not match[2] and "." in match[1]):
        raise ConfigError(
            f"--max-errors {max_errors!r} is neither a count nor a share; write 10 or 5%"
        )
    return int(float(match[1]) * rows / 100) if match[2] else int(match[1])


def check_price(options: JobOptions) -> None:
    """``--price-per-hour`` is a price where it is given; `ConfigError` else."""
    price = options.price_per_hour
    if price is not None and not 0 < price < math.inf:
        raise ConfigError(
            f"--price-per-hour {price:g} must be more than 0: what an hour of this machine costs"
        )


def budget_hours(options: JobOptions, run_options: RunOptions) -> float | None:
    """Hours after which the run stops, by `--budget-hours` or `--budget-cost`; None: never."""
    check_price(options)
    given = {"--budget-hours": run_options.budget_hours, "--budget-cost": run_options.budget_cost}
    for name, value in given.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{name} {value:g} is no budget to run with; give more than 0")
    limits = [] if run_options.budget_hours is None else [run_options.budget_hours]
    if run_options.budget_cost is not None:
        if options.price_per_hour is None:
            raise ConfigError(
                "--budget-cost needs --price-per-hour, what an hour of this machine costs"
            )
        limits.append(run_options.budget_cost / options.price_per_hour)
    return min(limits, default=None)


def retry_options(
    statuses: str,
    finish_reasons: str,
    settings: Sequence[str],
    max_errors: str | None,
    base_url: str | None,
) -> RetryOptions:
    """What `--status a,b --finish-reason c --set name=value` ask for, checked as far as here."""
    allowed_errors(max_errors, 0)
    chosen = {
        "--status": (_listed(statuses), STATUSES),
        "--finish-reason": (_listed(finish_reasons), FINISH_REASONS),
    }
    for option, (given, known) in chosen.items():
        for value in given:
            if value not in known:
                raise ConfigError(f"{option} {value} is none of {', '.join(known)}")
    if not any(given for given, _ in chosen.values()):
        raise ConfigError("retry needs rows to choose: give --status or --finish-reason, or both")
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {setting} is no setting; write for example max_tokens=4096")
        overrides[name] = _value(value)
    rows = (chosen["--status"][0], chosen["--finish-reason"][0])
    return RetryOptions(*rows, overrides, max_errors, base_url)


def _listed(names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def _value(text: str) -> Any:
    """The JSON value that the text is, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
