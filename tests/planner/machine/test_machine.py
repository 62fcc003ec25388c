"""Machines: what their fields may be, and the ones that ship."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.machine.machine import DEVICES, Machine
from batchpipe.planner.machine.machines import MACHINES, machine_named

POSITIVE = (
    "memory_bytes",
    "matmul_flops",
    "float32_share",
    "weight_bytes_per_second",
    "kv_bytes_per_second",
    "attention_flops",
    "host_bytes_per_second",
)
AT_LEAST_ZERO = ("step_seconds", "layer_seconds", "sequence_seconds", "overlap", "price_per_hour")
OPTIONAL = ("device", "host_bytes_per_second", "overlap", "price_per_hour", "note")


def fields(**changed: object) -> dict[str, object]:
    return {**MACHINES["h100"].as_fields(), **changed}


def refusal(given: dict[str, object]) -> str:
    """The sentence that refuses these fields."""
    with pytest.raises(ValueError, match=r"^here\.json: ") as raised:
        Machine.from_fields(given, "here.json")
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", list(MACHINES))
def test_shipped_machine_comes_back_from_its_fields(name: str) -> None:
    machine = MACHINES[name]
    assert machine.name == name
    assert machine_named(name) is machine_named(name.upper()) is machine
    kept = json.loads(json.dumps(machine.as_fields()))
    assert Machine.from_fields(kept, "kept") == machine
    assert machine.note


@given(
    st.fixed_dictionaries(
        {name: st.floats(1e-9, 1.0) for name in POSITIVE[1:]}
        | {"memory_bytes": st.integers(1, 10**15)}
        | {name: st.floats(0, 1) for name in AT_LEAST_ZERO}
        | {"name": st.text(min_size=1), "note": st.text(), "device": st.sampled_from(DEVICES)}
    )
)
def test_every_allowed_machine_comes_back_from_its_fields(given: dict[str, object]) -> None:
    machine = Machine.from_fields(given, "here")
    assert machine.as_fields() == given
    assert Machine.from_fields(json.loads(json.dumps(machine.as_fields())), "here") == machine


@pytest.mark.parametrize("device", ["tpu", "", 3, None])
def test_device_of_another_kind_is_refused(device: object) -> None:
    assert "write cpu or cuda" in refusal(fields(device=device))


def test_optional_fields_have_defaults() -> None:
    given = {name: value for name, value in fields().items() if name not in OPTIONAL}
    machine = Machine.from_fields(given, "here")
    assert machine.device == "cuda"
    assert (machine.overlap, machine.price_per_hour, machine.note) == (0.0, 0.0, "")


def test_unknown_fields_are_named_beside_the_known() -> None:
    sentence = refusal(fields(flops=1, cores=2))
    assert "no field 'cores', 'flops'" in sentence
    for field in dataclasses.fields(Machine):
        assert field.name in sentence


def test_missing_fields_are_named() -> None:
    given = fields()
    del given["matmul_flops"], given["step_seconds"]
    assert "lacks 'matmul_flops', 'step_seconds'" in refusal(given)


@pytest.mark.parametrize("name", POSITIVE + AT_LEAST_ZERO)
@pytest.mark.parametrize(
    "value", ["1e12", None, True, [1], math.nan, math.inf, -math.inf, -1, 10**400]
)
def test_figures_are_finite_numbers_of_the_right_sign(name: str, value: object) -> None:
    sentence = refusal(fields(**{name: value}))
    assert f"{name} is {value!r}; write a" in sentence


@pytest.mark.parametrize("name", POSITIVE)
def test_zero_is_refused_where_something_divides_by_it(name: str) -> None:
    assert f"{name} is 0; write a" in refusal(fields(**{name: 0}))


@pytest.mark.parametrize("name", AT_LEAST_ZERO)
def test_zero_is_fine_where_nothing_divides_by_it(name: str) -> None:
    assert getattr(Machine.from_fields(fields(**{name: 0}), "here"), name) == 0


@pytest.mark.parametrize("name", ["overlap", "float32_share"])
def test_share_above_one_is_refused(name: str) -> None:
    assert f"{name} is 1.01" in refusal(fields(**{name: 1.01}))
    assert getattr(Machine.from_fields(fields(**{name: 1}), "here"), name) == 1


def test_memory_is_whole_bytes() -> None:
    assert "whole number" in refusal(fields(memory_bytes=1.5))
    assert Machine.from_fields(fields(memory_bytes=8e9), "here").memory_bytes == 8 * 10**9


@pytest.mark.parametrize(("name", "value"), [("name", ""), ("name", 3), ("note", None)])
def test_texts_are_texts(name: str, value: object) -> None:
    assert f"{name} is {value!r}; write a" in refusal(fields(**{name: value}))


def test_unknown_machine_is_told_beside_the_known() -> None:
    with pytest.raises(ValueError, match=r"'abacus'; known are h200, h100, .*, cpu-2core"):
        machine_named("abacus")


def test_a100_has_the_rates_of_blendserve() -> None:
    """Table 1 of the paper, in TFLOP/s and TB/s."""
    machine = MACHINES["a100-80g"]
    assert machine.matmul_flops == pytest.approx(233e12, rel=0.01)
    assert machine.kv_bytes_per_second == pytest.approx(1.73e12, rel=0.01)


def test_devices_that_share_a_model_are_one_that_has_as_much() -> None:
    one = MACHINES["a100-80g"]
    two = one.times(2)
    assert one.times(1) is one
    assert two.memory_bytes == 2 * one.memory_bytes
    assert two.matmul_flops == 2 * one.matmul_flops
    assert two.kv_bytes_per_second == 2 * one.kv_bytes_per_second
    assert two.layer_seconds > one.layer_seconds, "they wait for each other"
    assert two.name == f"2 x {one.name}"
