"""The constants behind measured steps are found again, whatever they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.machine.fit_machine import fit_machine, nonnegative_least_squares
from batchpipe.planner.machine.machine import Machine
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.model_shape import QUANTIZED_BYTES, ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad

SHAPE = ModelShape(
    layers=16,
    hidden=1024,
    heads=16,
    kv_heads=4,
    head_dim=64,
    vocab=32_000,
    context=8192,
    linear_parameters=200_000_000,
    expert_parameters=0,
    experts=0,
    experts_per_token=0,
    head_parameters=32_768_000,
    tied_head=False,
    windows=(0,) * 16,
)


def prefill(tokens: int, past: int, chunks: int = 1) -> StepLoad:
    pairs = tokens * past + tokens * tokens // (2 * chunks)
    return StepLoad(tokens, chunks, chunks, prefill_tokens=tokens, prefill_pairs=pairs)


def decode(count: int, own: int, prefix: int = 0) -> StepLoad:
    return StepLoad(count, count, count, count * own, prefix, count * prefix)


LOADS = [
    *(prefill(2**power, 0) for power in range(13)),
    *(prefill(2**power, 4096) for power in range(0, 12, 2)),
    *(prefill(1024, 0, chunks) for chunks in (4, 32, 128)),
    *(decode(count, own) for count in (1, 8, 64, 256) for own in (16, 512, 4096)),
    *(decode(count, 32, prefix) for count in (4, 64, 256) for prefix in (512, 8192)),
]

machines = st.builds(
    Machine,
    name=st.just("made up"),
    memory_bytes=st.just(10**9),
    matmul_flops=st.floats(1e11, 1e15),
    float32_share=st.floats(0.05, 1),
    weight_bytes_per_second=st.just(0.0),  # follows from the knee
    kv_bytes_per_second=st.floats(1e9, 1e12),
    attention_flops=st.floats(1e10, 5e14),
    step_seconds=st.just(0.0),
    layer_seconds=st.floats(0, 1e-3),
    sequence_seconds=st.floats(0, 1e-4),
)


def with_knee(machine: Machine, rows: float, dtype: str) -> Machine:
    """The same machine, whose weights take as long to read as so many rows to compute."""
    size, share = (2, 1.0) if dtype == "bfloat16" else (4, machine.float32_share)
    fields = machine.as_fields()
    fields["weight_bytes_per_second"] = machine.matmul_flops * share * size / (2 * rows)
    return Machine.from_fields(fields, "made up")


def times(machine: Machine, dtype: str, shape: ModelShape = SHAPE) -> npt.NDArray[np.float64]:
    cost = StepCost(shape, machine, dtype)
    return np.array([cost.seconds(load) for load in LOADS])


@given(
    machines,
    st.floats(1, 400),
    st.sampled_from(["float32", "bfloat16"]),
    st.integers(0, 2**32),
)
def test_noisy_times_are_told_as_well_as_by_the_true_constants(
    machine: Machine, knee: float, dtype: str, seed: int
) -> None:
    true = times(with_knee(machine, knee, dtype), dtype)
    noise = np.random.default_rng(seed).normal(1, 0.02, len(LOADS)).clip(0.9, 1.1)
    fit = fit_machine(LOADS, true * noise, SHAPE, dtype, machine)
    assert fit.median_error < 0.04
    told = times(fit.machine, dtype)
    assert np.abs(told / true - 1).max() < 0.15
    assert Machine.from_fields(fit.machine.as_fields(), "fitted") == fit.machine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list(MACHINES))
def test_constants_of_shipped_machines_are_found_again(name: str, dtype: str) -> None:
    machine = MACHINES[name]
    cost = StepCost(SHAPE, machine, dtype)
    fit = fit_machine(LOADS, times(machine, dtype), SHAPE, dtype, machine)
    assert fit.worst_error < 0.1
    found = StepCost(SHAPE, fit.machine, dtype)
    assert found.token_seconds == pytest.approx(cost.token_seconds, rel=0.05)
    assert found.key_seconds == pytest.approx(cost.key_seconds, rel=0.05)
    assert found.fixed_seconds == pytest.approx(cost.fixed_seconds, rel=0.2)


def test_floor_is_out_of_sight_where_no_step_shows_one() -> None:
    machine = with_knee(MACHINES["cpu-2core"], 0.01, "float32")
    fit = fit_machine(LOADS, times(machine, "float32"), SHAPE, "float32", machine)
    cost = StepCost(SHAPE, fit.machine, "float32")
    assert cost.knee_tokens == 1


@pytest.mark.parametrize("quantize", QUANTIZED_BYTES)
def test_constants_are_found_again_from_quantized_steps(quantize: str) -> None:
    shape = replace(SHAPE, quantize=quantize)
    machine = MACHINES["a100-80g"]
    fit = fit_machine(LOADS, times(machine, "bfloat16", shape), shape, "bfloat16", machine)
    assert fit.worst_error < 0.1
    cost, found = (StepCost(shape, each, "bfloat16") for each in (machine, fit.machine))
    assert found.token_seconds == pytest.approx(cost.token_seconds, rel=0.05)


def test_windows_and_experts_count_as_in_the_cost_model() -> None:
    fields = {name: getattr(SHAPE, name) for name in ModelShape.__dataclass_fields__}
    fields |= {"windows": (512, 0) * 8, "experts": 16, "experts_per_token": 2}
    shape = ModelShape(**fields | {"expert_parameters": 10**9})
    machine = MACHINES["a100-80g"]
    fit = fit_machine(LOADS, times(machine, "bfloat16", shape), shape, "bfloat16", machine)
    assert fit.worst_error < 0.1


def test_errors_of_chosen_steps_are_their_own() -> None:
    seconds = times(MACHINES["l4"], "bfloat16")
    seconds[0] *= 2
    fit = fit_machine(LOADS, seconds, SHAPE, "bfloat16", MACHINES["l4"])
    first = [place == 0 for place in range(len(LOADS))]
    others = [not chosen for chosen in first]
    assert fit.of(first).median_error == fit.of(first).worst_error == fit.worst_error
    assert fit.of(others).worst_error < fit.worst_error
    assert fit.of([False] * len(LOADS)).worst_error == fit.worst_error


@given(st.integers(1, 5), st.integers(0, 2**32))
def test_nonnegative_least_squares_is_the_best_of_all_subsets(unknowns: int, seed: int) -> None:
    draws = np.random.default_rng(seed)
    columns = draws.normal(size=(unknowns + 3, unknowns))
    target = draws.normal(size=len(columns))
    best = float(np.linalg.norm(target))
    for count in range(1, unknowns + 1):
        for free in combinations(range(unknowns), count):
            some = columns[:, free]
            solution = np.linalg.lstsq(some, target, rcond=None)[0]
            if (solution >= 0).all():
                best = min(best, float(np.linalg.norm(some @ solution - target)))
    found = nonnegative_least_squares(columns, target)
    assert (found >= 0).all()
    assert np.linalg.norm(columns @ found - target) == pytest.approx(best, abs=1e-8)


def test_columns_of_zeros_and_far_apart_scales_are_solved() -> None:
    columns = np.array([[0.0, 1e-15, 1e9], [0.0, 2e-15, 1e9], [0.0, 3e-15, 1e9]])
    found = nonnegative_least_squares(columns, columns @ [0.0, 1e12, 1e-12])
    assert found == pytest.approx([0.0, 1e12, 1e-12])
