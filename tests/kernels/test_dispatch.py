"""Which path serves which device."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from test_attention import STEPS
from torch import Tensor

from batchpipe.kernels import attention, native
from batchpipe.kernels.dispatch import Device, Dispatch, path_for
from batchpipe.kernels.reference import Variant

HOPPER = Device("cuda", (9, 0), processors=132, has_triton=True)


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "path"),
    [
        (HOPPER, torch.bfloat16, 128, "triton"),
        (HOPPER, torch.float32, 256, "triton"),
        (HOPPER, torch.float16, 60, "triton"),
        (HOPPER, torch.bfloat16, 288, "torch"),
        (HOPPER, torch.float64, 64, "torch"),
        (Device("cuda", (8, 0), 108, True), torch.bfloat16, 128, "triton"),
        (Device("cuda", (7, 5), 40, True), torch.float16, 128, "torch"),
        (Device("cuda", (9, 0), 132, False), torch.bfloat16, 128, "torch"),
        (Device("cpu"), torch.float16, 128, "torch"),
        (Device("cpu"), torch.bfloat16, 60, "torch"),
        (Device("mps"), torch.float16, 128, "torch"),
    ],
)
def test_fused_kernels_serve_what_they_can(
    device: Device, dtype: torch.dtype, head_dim: int, path: str
) -> None:
    assert path_for(device, dtype, (head_dim, head_dim), Variant(1.0)) == path


def test_what_is_compiled_is_dispatched_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, slots = STEPS["at-once"].layouts[0], STEPS["at-once"].slots
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(len(layout.positions), 4, 16, generator=draw)
    key, value = (torch.randn(len(layout.positions), 2, 16, generator=draw) for _ in range(2))

    def attended() -> Tensor:
        caches = torch.zeros(2, slots, 2, 16)
        return Dispatch().attend(query, key, value, *caches, layout, Variant(0.25))

    compiled = attended()
    monkeypatch.setattr(native, "kernel", lambda: None)
    plain = attended()
    caches = torch.zeros(2, slots, 2, 16)
    assert torch.equal(plain, attention.attend(query, key, value, *caches, layout, Variant(0.25)))
    torch.testing.assert_close(compiled, plain, rtol=0, atol=2e-5)


def test_without_a_gpu_triton_stays_unloaded() -> None:
    check = "import batchpipe.kernels.dispatch, sys; print('triton' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", check], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"
