"""What a layer does to each row between its products, in one pass of the compiled kernel."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from batchpipe.kernels.native import DTYPES, Kernel, kernel


class _Rows(ctypes.Structure):
    """As `struct Rows` in csrc/native.cpp."""

    _fields_ = (
        ("count", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("is_bfloat16", ctypes.c_int32),
    )


def serves(dtype: torch.dtype, width: int) -> bool:
    """True where the compiled kernel is there and takes rows of this width."""
    found = kernel()
    return found is not None and dtype in DTYPES and width % found.instructions.lanes == 0


def rms_norm(
    rows: Tensor,  # [..., width]
    weight: Tensor,  # of the same dtype  # [width]
    epsilon: float,
    using: Kernel | None = None,
) -> Tensor:  # [..., width]
    """``weight * rows / sqrt(mean(rows ** 2) + epsilon)``, in float32 up to the weight."""
    assert weight.dtype == rows.dtype, "the kernel reads both"
    assert weight.shape == rows.shape[-1:], "one weight for each place of a row"
    rows = rows.contiguous()
    output = torch.empty_like(rows)
    _call("batchpipe_normalise", output, weight, using, first=rows, epsilon=epsilon)
    return output


def open_gates_(
    gates: Tensor,  # overwritten; dense  # [..., width]
    rows: Tensor,  # [..., width]
    using: Kernel | None = None,
) -> Tensor:  # [..., width]
    """``silu(gates) * rows``, where the gates were."""
    assert gates.is_contiguous(), "written in place"
    assert rows.dtype == gates.dtype, "the kernel reads both"
    assert rows.shape == gates.shape, "a gate for each value"
    _call("batchpipe_open_gates", gates, rows.contiguous(), using)
    return gates


def _call(
    function: str,
    output: Tensor,
    second: Tensor,
    using: Kernel | None,
    first: Tensor | None = None,
    epsilon: float = 0.0,
) -> None:
    using = using or kernel()
    assert using is not None, "`serves` says whether it is there"
    width = output.shape[-1]
    rows = _Rows(
        count=output.numel() // width,
        width=width,
        first=None if first is None else first.data_ptr(),
        second=second.data_ptr(),
        output=output.data_ptr(),
        epsilon=epsilon,
        is_bfloat16=output.dtype == torch.bfloat16,
    )
    getattr(using.library, function)(ctypes.byref(rows), int(using.instructions))
