"""A machine from measured steps: the constants of `StepCost` that explain their times best.

`StepCost` is linear in the reciprocals of its rates once it is known where reading the weights
hides the computing (the knee). So every candidate knee is one non-negative least squares, and the
columns come from `StepCost` itself: whatever it counts, the fit counts. Errors are relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.model_shape import DTYPE_BYTES, ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad

Floats = npt.NDArray[np.float64]

# Rows up to which the weights' reading may hide the computing: from one, which no step shows, to
# beyond the ridge of a GPU, some 300 for bfloat16 on an H100.
NO_KNEE = 1.0
KNEES = np.geomspace(NO_KNEE, 1024, 41)
FINER = 13  # knees tried between the neighbours of the best
KNEE_GAIN = 0.02  # share by which a knee must better the fit: noise would move it otherwise

# A machine that does everything in no time; one rate at a time is made 1 to count its work.
INSTANT = Machine(
    name="instant",
    memory_bytes=1,
    matmul_flops=math.inf,
    float32_share=1.0,
    weight_bytes_per_second=math.inf,
    kv_bytes_per_second=math.inf,
    attention_flops=math.inf,
    step_seconds=0.0,
    layer_seconds=0.0,
    sequence_seconds=0.0,
)
FASTEST = 1e18  # FLOP/s or bytes/s of what the steps show no cost of


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A machine, and how far its step times are from the measured ones."""

    machine: Machine
    errors: Floats  # predicted over measured, less 1  # [steps]

    @property
    def median_error(self) -> float:
        """Of the errors' sizes."""
        return float(np.median(np.abs(self.errors)))

    @property
    def worst_error(self) -> float:
        """Of the errors' sizes."""
        return float(np.abs(self.errors).max())

    def of(self, chosen: Sequence[bool]) -> Fit:  # [steps]
        """The same with the errors of these steps alone; of all of them where none is chosen."""
        kept = np.asarray(chosen, dtype=np.bool_)
        return Fit(self.machine, self.errors[kept] if kept.any() else self.errors)


def fit_machine(
    loads: Sequence[StepLoad],
    seconds: Sequence[float],  # [loads]
    shape: ModelShape,
    dtype: str,
    base: Machine,
) -> Fit:
    """The machine whose steps of these loads take these times, as nearly as can be.

    Name, memory, price and the ratio of float32 to 16-bit rates are those of ``base``: one dtype
    cannot tell them. All of a step's fixed cost is put down to its layers, where an eager engine
    spends it, so that a deeper model costs more. Nothing overlaps: operators run one by one.
    """
    measured = np.asarray(seconds, dtype=np.float64)
    assert len(loads) == len(measured), (len(loads), len(measured))
    assert (measured > 0).all(), seconds
    fits = {knee: _at_knee(knee, loads, measured, shape, dtype) for knee in KNEES.tolist()}
    place = int(np.argmin([error for _, error in fits.values()]))
    around = KNEES[max(0, place - 1)], KNEES[min(len(KNEES) - 1, place + 1)]
    for knee in np.geomspace(*around, FINER).tolist():
        fits[knee] = _at_knee(knee, loads, measured, shape, dtype)
    knee = min(fits, key=lambda knee: fits[knee][1])
    if fits[knee][1] > (1 - KNEE_GAIN) * fits[NO_KNEE][1]:
        knee = NO_KNEE
    machine = _machine(base, fits[knee][0], knee, shape, dtype)
    cost = StepCost(shape, machine, dtype)
    predicted = np.array([cost.seconds(load) for load in loads])
    return Fit(machine, predicted / measured - 1)


def slowed(machine: Machine, factor: float) -> Machine:
    """The same machine, on which every step takes ``factor`` times as long."""
    return replace(
        machine,
        matmul_flops=machine.matmul_flops / factor,
        weight_bytes_per_second=machine.weight_bytes_per_second / factor,
        kv_bytes_per_second=machine.kv_bytes_per_second / factor,
        attention_flops=machine.attention_flops / factor,
        step_seconds=machine.step_seconds * factor,
        layer_seconds=machine.layer_seconds * factor,
        sequence_seconds=machine.sequence_seconds * factor,
    )


def nonnegative_least_squares(
    columns: Floats,  # [rows, unknowns]
    target: Floats,  # [rows]
) -> Floats:  # [unknowns]
    """The ``x >= 0`` that minimizes ``|columns @ x - target|`` (Lawson and Hanson 1974, ch. 23)."""
    norms = np.linalg.norm(columns, axis=0)
    scaled = columns / np.where(norms > 0, norms, 1.0)  # rates lie twenty decades apart
    unknowns = scaled.shape[1]
    found = np.zeros(unknowns)
    free = np.zeros(unknowns, dtype=np.bool_)
    tolerance = 1e-10 * max(1.0, float(np.linalg.norm(target)))
    for _ in range(3 * unknowns):
        slope = scaled.T @ (target - scaled @ found)
        slope[free] = 0.0
        entering = int(slope.argmax())
        if slope[entering] <= tolerance:
            break
        free[entering] = True
        _settle(scaled, target, found, free)
    return found / np.where(norms > 0, norms, 1.0)


def _settle(columns: Floats, target: Floats, found: Floats, free: npt.NDArray[np.bool_]) -> None:
    """``found`` is the least squares of the free unknowns, those that fell to 0 no longer free."""
    while free.any():
        wanted = np.zeros(len(found))
        wanted[free] = np.linalg.lstsq(columns[:, free], target, rcond=None)[0]
        below = free & (wanted <= 0)
        if not below.any():
            found[:] = wanted
            return
        share = (found[below] / (found[below] - wanted[below])).min()
        found += share * (wanted - found)
        free &= found > 1e-15
        found[~free] = 0.0


def _at_knee(
    knee: float, loads: Sequence[StepLoad], seconds: Floats, shape: ModelShape, dtype: str
) -> tuple[Floats, float]:
    """Seconds per layer, sequence, FLOP, attention FLOP and key byte; the error that is left."""
    weights = _weight_bytes_per_flop(knee, shape, dtype)
    units = (
        replace(INSTANT, layer_seconds=1.0),
        replace(INSTANT, sequence_seconds=1.0),
        replace(INSTANT, matmul_flops=1.0, weight_bytes_per_second=weights),
        replace(INSTANT, attention_flops=1.0),
        replace(INSTANT, kv_bytes_per_second=1.0),
    )
    costs = [StepCost(shape, unit, dtype) for unit in units]
    columns = np.array([[cost.seconds(load) for cost in costs] for load in loads])
    relative = columns / seconds[:, None]
    solution = nonnegative_least_squares(relative, np.ones(len(seconds)))
    return solution, float(np.linalg.norm(relative @ solution - 1))


def _weight_bytes_per_flop(knee: float, shape: ModelShape, dtype: str) -> float:
    """Bytes of weights read per FLOP computed: ``knee`` rows take as long as reading them."""
    return shape.linear_weight_bytes(dtype) / (2 * knee)


def _machine(
    base: Machine, solution: Floats, knee: float, shape: ModelShape, dtype: str
) -> Machine:
    """The machine of these seconds per unit."""
    layer, sequence, *per_unit = solution.tolist()
    matmul, attention, kv = (1 / max(unit, 1 / FASTEST) for unit in per_unit)
    sixteen_bit = 1.0 if DTYPE_BYTES[dtype] <= 2 else base.float32_share
    return replace(
        base,
        matmul_flops=matmul / sixteen_bit,
        attention_flops=attention / sixteen_bit,
        kv_bytes_per_second=kv,
        weight_bytes_per_second=matmul * _weight_bytes_per_flop(knee, shape, dtype),
        step_seconds=0.0,
        layer_seconds=layer,
        sequence_seconds=sequence,
        overlap=0.0,  # the engine runs its operators one after the other
    )
