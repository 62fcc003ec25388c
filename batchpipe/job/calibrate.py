"""`batchpipe calibrate`: this machine measured with the real engine, and kept as a profile."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from transformers.utils.logging import disable_progress_bar

from batchpipe.config import JobOptions, dtype_text
from batchpipe.engine.calibrate import POINTS, QUICK_POINTS, Measured, measure, measure_link
from batchpipe.engine.model import choose_device, choose_dtype, load_model, refuse_by_class
from batchpipe.engine.quantized import check_quantizable
from batchpipe.engine.self_check import check_attention
from batchpipe.engine.sustained import Played, play
from batchpipe.errors import BatchpipeError
from batchpipe.job.kv_memory import blocks_in, free_bytes
from batchpipe.job.language import load_config, shape_of
from batchpipe.job.profiles import find_machine, save_profile
from batchpipe.planner.machine.fit_machine import Fit, fit_machine, slowed
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.model_shape import DTYPE_BYTES, QUANTIZED_BYTES, ModelShape
from batchpipe.planner.machine.step_cost import StepCost

# Without a model: one of ordinary shape, small enough for two CPU cores. Half precision, as most
# checkpoints are, so that `--dtype auto` chooses what it will choose for them.
STAND_IN = "random-llama-30m"
STAND_IN_SIZES = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}

PLAYS = 3  # of a small job
FEWEST_STEPS = 8  # fewer do not tell six constants apart
SHORT_STEP_SECONDS = 0.005  # errors of shorter steps are mostly noise, and little of any job


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What was measured, what was fitted to it, and where that is kept."""

    machine: Machine
    model: str
    dtype: str
    device: str
    steps: int
    median_error: float  # relative, of steps that are not short
    worst_error: float
    errors_by_kind: dict[str, float]  # median of each kind
    path: str
    slowdown: float = 1.0  # of the steps of a job against steps repeated
    quantize: str | None = None  # how the weights were kept; None: in the dtype

    def as_json(self) -> dict[str, Any]:
        """Plain values; the machine by its fields."""
        told = ("model", "dtype", "quantize", "device", "steps", "slowdown")
        names = (*told, "median_error", "worst_error")
        own = {name: getattr(self, name) for name in names}
        kinds = {"errors_by_kind": self.errors_by_kind}
        return {"machine": self.machine.as_fields(), **own, **kinds, "path": self.path}

    def __str__(self) -> str:
        machine = self.machine
        share = 1.0 if DTYPE_BYTES[self.dtype] <= 2 else machine.float32_share
        reading = machine.weight_bytes_per_second
        kept = DTYPE_BYTES[self.dtype] if self.quantize is None else QUANTIZED_BYTES[self.quantize]
        computing = machine.matmul_flops * share / 2 * kept  # weights' bytes/s
        seen = reading < 0.99 * computing  # else no step was slowed by reading weights
        computed_in = dtype_text(self.dtype, self.quantize)
        kinds = ", ".join(f"{kind} {error:.0%}" for kind, error in self.errors_by_kind.items())
        rows = (
            ("linear layers", machine.matmul_flops * share / 1e12, "TFLOP/s"),
            ("attention", machine.attention_flops * share / 1e12, "TFLOP/s"),
            ("reading weights", reading / 1e9, "GB/s" if seen else "GB/s or more"),
            ("reading own keys", machine.kv_bytes_per_second / 1e9, "GB/s"),
            ("copying keys to the host", machine.host_bytes_per_second / 1e9, "GB/s"),
            ("each layer of a step", machine.layer_seconds * 1e6, "µs"),
            ("each sequence of a step", machine.sequence_seconds * 1e6, "µs"),
        )
        return "\n".join(
            (
                f"{self.model} in {computed_in} on {self.device}, {self.steps} steps measured",
                *(f"  {name:<24}{_figure(amount):>10} {unit}" for name, amount, unit in rows),
                f"median error {self.median_error:.1%}, worst {self.worst_error:.1%} ({kinds})",
                f"steps of a job took {self.slowdown:.2f} times as long as repeated ones: included",
                f"saved: {self.path}",
            )
        )


def calibrate(
    model: str | None,
    *,
    dtype: str = "auto",
    quantize: str | None = None,
    device: str = "auto",
    quick: bool = False,
) -> Report:
    """The machine's profile stands where `find_machine` finds it.

    Raises:
        ConfigError: the model or the device is none that can be used
        BatchpipeError: too few steps fit the model's context and the memory to tell anything
    """
    chosen_device = choose_device(device)
    loaded, shape, chosen_dtype = _loaded(model, dtype, quantize, chosen_device)
    kv_blocks = blocks_in(free_bytes(chosen_device.type), shape, chosen_dtype)
    points = QUICK_POINTS if quick else POINTS
    named = model or STAND_IN
    computed_in = dtype_text(chosen_dtype, quantize)
    print(f"measuring {len(points)} steps of {named} in {computed_in}", file=sys.stderr)
    steps = list(measure(loaded, shape, kv_blocks, points))
    if len(steps) < FEWEST_STEPS:
        raise BatchpipeError(
            f"only {len(steps)} of {len(points)} steps of {named} fit its context of "
            f"{shape.context} tokens and this machine, and {FEWEST_STEPS} are needed; give a "
            f"smaller model or one with a longer context"
        )
    kind = chosen_device.type
    base = find_machine(None, model=named, dtype=chosen_dtype, device=kind, quantize=quantize)
    fit = fit_machine(
        [step.load for step in steps], [step.seconds for step in steps], shape, chosen_dtype, base
    )
    slowdown = _slowdown(
        fit.machine, play(loaded, shape, kv_blocks, 1 if quick else PLAYS), shape, chosen_dtype
    )
    machine = replace(
        slowed(fit.machine, slowdown),
        name=f"{socket.gethostname()}-{kind}",
        memory_bytes=_memory_bytes(chosen_device),
        device=kind,
        host_bytes_per_second=measure_link(loaded, shape, kv_blocks),
        note=f"measured by `batchpipe calibrate` with {named} in {computed_in}",
    )
    path = save_profile(machine, named, chosen_dtype, device=kind, quantize=quantize)
    report = _report(machine, fit, steps, named, chosen_dtype, kind, path)
    return replace(report, slowdown=round(slowdown, 4), quantize=quantize)


def _loaded(
    model: str | None, dtype: str, quantize: str | None, device: torch.device
) -> tuple[Any, ModelShape, str]:
    """The model on the device, its sizes and the dtype it computes in; checked where it is real."""
    with _model(model, quantize) as (name, config, shape):
        chosen = choose_dtype(dtype, config, device)
        if quantize is not None:
            check_quantizable(model or STAND_IN, config, quantize, device=device, dtype=chosen)
        loaded = load_model(name, config, dtype=chosen, device=device, quantize=quantize)
        if model is not None:
            check_attention(loaded, shape, name)
    return loaded, shape, chosen


def _slowdown(machine: Machine, played: list[Played], shape: ModelShape, dtype: str) -> float:
    """How much longer the steps of a job take than the same steps repeated: the median play's."""
    cost = StepCost(shape, machine, dtype)
    ratios = [seconds / sum(map(cost.seconds, loads)) for loads, seconds in played]
    return max(1.0, median(ratios)) if ratios else 1.0


@contextmanager
def _model(name: str | None, quantize: str | None) -> Iterator[tuple[str, Any, ModelShape]]:
    """Where the model lies while the context lasts, its configuration and its sizes."""
    if name is not None:
        options = JobOptions(input="", model=name, quantize=quantize)
        config = load_config(options)
        refuse_by_class(name, config)
        yield name, config, shape_of(options, config)
        return
    config = transformers.LlamaConfig(**STAND_IN_SIZES)
    with tempfile.TemporaryDirectory(prefix="batchpipe-") as folder, torch.random.fork_rng():
        torch.manual_seed(0)
        disable_progress_bar()
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        yield folder, config, replace(ModelShape.from_config(config), quantize=quantize)


def _memory_bytes(device: torch.device) -> int:
    """All memory of the device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _report(
    machine: Machine,
    fit: Fit,
    steps: list[Measured],
    model: str,
    dtype: str,
    device: str,
    path: Path,
) -> Report:
    whole = fit.of([step.seconds >= SHORT_STEP_SECONDS for step in steps])
    kinds = dict.fromkeys(step.kind for step in steps)
    by_kind = {kind: fit.of([step.kind == kind for step in steps]) for kind in kinds}
    return Report(
        machine=machine,
        model=model,
        dtype=dtype,
        device=device,
        steps=len(steps),
        median_error=round(whole.median_error, 4),
        worst_error=round(whole.worst_error, 4),
        errors_by_kind={kind: round(part.median_error, 4) for kind, part in by_kind.items()},
        path=str(path),
    )


def _figure(amount: float) -> str:
    """Three digits, without an exponent where a person reads it better so."""
    return f"{amount:,.0f}" if 100 <= amount < 1e7 else f"{amount:.3g}"
