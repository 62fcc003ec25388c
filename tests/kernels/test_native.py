"""The compiled kernel against the specification, in every form that this processor runs."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from shutil import which
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_attention import STEPS, Heads, compare, steps_of
from torch import Tensor

from batchpipe.kernels import native
from batchpipe.kernels.native import Instructions
from batchpipe.kernels.reference import Variant

KERNEL = native.kernel()
FORMS = [] if KERNEL is None else [i for i in Instructions if 0 < i <= KERNEL.instructions]
needs_kernel = pytest.mark.skipif(KERNEL is None, reason="nothing is compiled for this processor")


def attend_with(form: Instructions) -> Any:
    assert KERNEL is not None
    using = replace(KERNEL, instructions=form)

    def attend(*step: Any) -> Tensor:
        *tensors, layout, variant, sinks = step
        reads = native.reads_of(layout)
        return native.attend(*tensors, layout, reads, variant, sinks, using)

    return attend


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64" or which("g++") is None,
    reason="it is built on x86-64 Linux, by a C++ compiler",
)
def test_it_is_compiled_where_the_tests_run() -> None:
    assert KERNEL is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("heads", [Heads(4, 2, 64), Heads(6, 1, 80), Heads(3, 3, 16)], ids=repr)
@pytest.mark.parametrize("name", sorted(STEPS))
@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_steps_of_real_plans_equal_the_specification(
    form: Instructions, name: str, heads: Heads, dtype: torch.dtype
) -> None:
    compare(STEPS[name], heads, Variant(0.2), dtype, most_steps=4, attend=attend_with(form))


@pytest.mark.parametrize("window", [1, 17, 64, 200])
@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_a_window_hides_what_is_older(form: Instructions, window: int) -> None:
    variant = Variant(0.2, window=window)
    compare(STEPS["in-chunks"], Heads(4, 2, 32), variant, attend=attend_with(form))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_sinks_take_weight(form: Instructions, dtype: torch.dtype) -> None:
    sinks = torch.tensor([-3.0, 0.0, 2.5, 30.0])
    heads, variant = Heads(4, 2, 32), Variant(0.3)
    compare(STEPS["at-once"], heads, variant, dtype, sinks, 3, attend_with(form))


rows_of_tokens = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=90), max_size=9)


@needs_kernel
@given(
    rows_of_tokens.filter(bool),
    st.sampled_from([7, 40, 1000]),
    st.booleans(),
    st.sampled_from([Heads(1, 1, 16), Heads(5, 1, 32), Heads(8, 4, 48), Heads(14, 2, 128)]),
    st.sampled_from([Variant(0.1), Variant(1.0), Variant(0.3, window=9)]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(FORMS or [Instructions.TOO_OLD]),
)
def test_any_step_equals_the_specification(
    rows: list[list[int]],
    step_tokens: int,
    scattered: bool,
    heads: Heads,
    variant: Variant,
    dtype: torch.dtype,
    form: Instructions,
) -> None:
    lengths = [1 + place % 3 for place in range(len(rows))]
    steps = steps_of(rows, lengths, step_tokens=step_tokens, scattered=scattered)
    compare(steps, heads, variant, dtype, most_steps=2, attend=attend_with(form))


@needs_kernel
def test_threads_change_no_more_than_rounding() -> None:
    layout, slots = STEPS["in-chunks"].layouts[3], STEPS["in-chunks"].slots
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(len(layout.positions), 4, 32, generator=draw)
    key, value = (torch.randn(len(layout.positions), 2, 32, generator=draw) for _ in range(2))
    caches = torch.randn(2, slots, 2, 32, generator=draw)
    outputs = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        step = (query, key, value, *caches.clone(), layout, Variant(0.2), None)
        outputs.append(attend_with(FORMS[-1])(*step))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=0, atol=1e-5)


@needs_kernel
def test_a_number_that_is_none_stays_with_its_row() -> None:
    steps = STEPS["wide"]
    layout = steps.layouts[-1]
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(len(layout.positions), 4, 32, generator=draw)
    key, value = (torch.randn(len(layout.positions), 2, 32, generator=draw) for _ in range(2))
    query[1] = float("nan")
    value[2] = float("nan")
    caches = torch.randn(2, steps.slots, 2, 32, generator=draw)
    found = attend_with(FORMS[-1])(query, key, value, *caches, layout, Variant(0.2), None)
    broken = found.isnan().flatten(1).all(dim=1).nonzero().flatten().tolist()
    assert broken == [1, 2]
    assert found.isnan().flatten(1).any(dim=1).sum() == 2


def test_it_can_be_left_alone() -> None:
    check = "from batchpipe.kernels import native; print(native.kernel())"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", check],
        env={native.SWITCH: "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "None"


def test_what_it_cannot_compute_is_left_to_others() -> None:
    plain = Variant(1.0)
    assert not native.serves(torch.float16, (64, 64), plain)
    assert not native.serves(torch.float32, (60, 60), plain)
    assert not native.serves(torch.float32, (64, 64), Variant(1.0, softcap=30.0))
    assert native.serves(torch.float32, (64, 64), plain) == (KERNEL is not None)
