"""What a layer does to each row between its products, in one pass of the compiled kernel."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from batchpipe.kernels.native import DTYPES, Instructions, Kernel, kernel

SHORTEST_HEAD = 2 * Instructions.AVX2.lanes  # each half is whole vectors


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


class _Heads(ctypes.Structure):
    """As `struct Heads` in csrc/native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "heads", "width")),
        *((name, ctypes.c_int64) for name in ("token_stride", "head_stride")),
        *((name, ctypes.c_void_p) for name in ("from_", "cos", "sin", "to")),
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


def rotate(
    heads: Tensor,  # dense in its last axis  # [tokens, heads, head_dim]
    cos: Tensor,  # of the same dtype  # [tokens, head_dim]
    sin: Tensor,  # likewise
    using: Kernel | None = None,
) -> Tensor:  # dense  # [tokens, heads, head_dim]
    """Every head by its token's angles: ``heads * cos + (-second half, first half) * sin``."""
    using = using or kernel()
    assert using is not None, "`turns` says whether it is there"
    assert heads.stride(2) == 1, "the kernel reads the numbers of a head side by side"
    assert cos.dtype == sin.dtype == heads.dtype, "the kernel reads all three"
    tokens, count, width = heads.shape
    assert cos.shape == sin.shape == (tokens, width), "an angle for each number of a head"
    cos, sin, output = cos.contiguous(), sin.contiguous(), heads.new_empty(heads.shape)
    given = _Heads(
        tokens=tokens,
        heads=count,
        width=width,
        token_stride=heads.stride(0),
        head_stride=heads.stride(1),
        from_=heads.data_ptr(),
        cos=cos.data_ptr(),
        sin=sin.data_ptr(),
        to=output.data_ptr(),
        is_bfloat16=heads.dtype == torch.bfloat16,
    )
    form = using.instructions
    if width % (2 * form.lanes):
        form = Instructions.AVX2  # shorter vectors, which every processor has that has longer ones
    using.library.batchpipe_turn(ctypes.byref(given), int(form))
    return output


def turns(dtype: torch.dtype, head_dim: int) -> bool:
    """True where the compiled kernel is there and rotates heads of this size."""
    return kernel() is not None and dtype in DTYPES and head_dim % SHORTEST_HEAD == 0


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
