"""Attention on the CPU by the compiled kernel: one call a layer, each key read where it lies.

`csrc/` holds the kernel. It is built with the package where there is a C++ compiler, and chosen by
`dispatch`; without it everything runs through `attention`.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchpipe.kernels.layout import Layout
from batchpipe.kernels.reference import Variant

LIBRARY = "batchpipe.kernels._native"
DTYPES = frozenset({torch.float32, torch.bfloat16})
SWITCH = "BATCHPIPE_NATIVE"  # environment variable; 0: the compiled kernel is left alone

# As `struct Read` in csrc/native.cpp.
READ = np.dtype(
    [
        ("query_start", np.int64),
        ("query_end", np.int64),
        ("keys", np.int64),
        ("position", np.int64),
        ("first_slot", np.int64),
        ("slots", np.uint64),
    ]
)

Reads = npt.NDArray[np.void]  # of `READ`


class _Step(ctypes.Structure):
    """As `struct Step` in csrc/native.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                "queries",
                "tokens",
                "heads",
                "kv_heads",
                "head_dim",
                "value_dim",
                "window",
            )
        ),
        ("read_count", ctypes.c_int64),
        *(
            (f"{name}{axis}", ctypes.c_int64)
            for name in ("query", "key", "value")
            for axis in ("_stride", "_head_stride")
        ),
        ("scale", ctypes.c_float),
        ("is_bfloat16", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("query", "key", "value", "key_cache", "value_cache", "output")
        ),
        *((name, ctypes.c_void_p) for name in ("positions", "write_slots", "reads", "sinks")),
    )


class Instructions(IntEnum):
    """What the kernel is compiled for; as in csrc/native.cpp."""

    TOO_OLD = 0
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3

    @property
    def lanes(self) -> int:
        """Floats of a vector: head sizes must be multiples."""
        return 8 if self is Instructions.AVX2 else 16


@dataclass(frozen=True, slots=True)
class Kernel:
    """The compiled kernel, and which of its forms runs."""

    library: ctypes.CDLL
    instructions: Instructions


@cache
def kernel() -> Kernel | None:
    """The best that this processor runs; None where it is too old or nothing was built."""
    spec = None if os.environ.get(SWITCH) == "0" else find_spec(LIBRARY)
    if spec is None or spec.origin is None:
        return None
    try:
        _share_openmp()
        library = ctypes.CDLL(spec.origin)
    except OSError:  # built for another system, or torch runs without OpenMP
        return None
    for function in ("attend", "normalise", "open_gates", "turn"):
        getattr(library, f"batchpipe_{function}").restype = None
    instructions = Instructions(library.batchpipe_instructions())
    return Kernel(library, instructions) if instructions else None


def serves(dtype: torch.dtype, head_dims: tuple[int, int], variant: Variant) -> bool:
    """True where the compiled kernel is there and computes this."""
    if dtype not in DTYPES or variant.softcap is not None or variant.scale <= 0:
        return False
    found = kernel()
    return found is not None and all(size % found.instructions.lanes == 0 for size in head_dims)


def attend(
    query: Tensor,  # [queries, heads, head_dim]
    key: Tensor,  # [tokens, kv_heads, head_dim]
    value: Tensor,  # [tokens, kv_heads, value_dim]
    key_cache: Tensor,  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    layout: Layout,
    reads: Reads,  # of the layout
    variant: Variant,
    sinks: Tensor | None = None,  # [heads]
    using: Kernel | None = None,
) -> Tensor:  # [queries, heads, value_dim]
    """The step's keys and values are stored, and every query has attended to its context."""
    using = using or kernel()
    assert using is not None, "`serves` says whether it is there"
    query, key, value = (_dense_last(each) for each in (query, key, value))
    output = torch.empty(*query.shape[:2], value.shape[2], dtype=query.dtype)
    logits = None if sinks is None else sinks.float().contiguous()
    step = _Step(
        queries=query.shape[0],
        tokens=key.shape[0],
        heads=query.shape[1],
        kv_heads=key.shape[1],
        head_dim=query.shape[2],
        value_dim=value.shape[2],
        window=variant.window or 0,
        read_count=len(reads),
        query_stride=query.stride(0),
        query_head_stride=query.stride(1),
        key_stride=key.stride(0),
        key_head_stride=key.stride(1),
        value_stride=value.stride(0),
        value_head_stride=value.stride(1),
        scale=variant.scale,
        is_bfloat16=query.dtype == torch.bfloat16,
        query=query.data_ptr(),
        key=key.data_ptr(),
        value=value.data_ptr(),
        key_cache=key_cache.data_ptr(),
        value_cache=value_cache.data_ptr(),
        output=output.data_ptr(),
        positions=layout.positions.data_ptr(),
        write_slots=layout.write_slots.data_ptr(),
        reads=reads.ctypes.data,
        sinks=None if logits is None else logits.data_ptr(),
    )
    using.library.batchpipe_attend(ctypes.byref(step), int(using.instructions))
    return output


def reads_of(layout: Layout) -> Reads:
    """The layout's reads; they point into its tensors, which must outlive them."""
    parts = [_shared(layout), _squares(layout), *_singles(layout)]
    return np.concatenate(parts)


def _shared(layout: Layout) -> Reads:
    table = np.zeros(len(layout.shared), READ)
    for row, shared in enumerate(layout.shared):
        read, run = shared.read, shared.run
        first = -1 if run is None else run.start
        place = (read.query_start, read.query_end, len(read.slots), read.position)
        table[row] = (*place, first, read.slots.data_ptr())
    return table


def _squares(layout: Layout) -> Reads:
    table = np.zeros(len(layout.squares), READ)
    slots, positions = layout.write_slots.data_ptr(), layout.positions.numpy()
    for row, (start, end) in enumerate(layout.squares):
        table[row] = (start, end, end - start, positions[start], -1, slots + 8 * start)
    return table


def _singles(layout: Layout) -> list[Reads]:
    tables = []
    for group in layout.singles:
        count, longest = group.slots.shape
        table = np.zeros(count, READ)
        table["query_start"] = group.query.numpy()
        table["query_end"] = table["query_start"] + 1
        table["keys"] = group.lengths.numpy()
        table["position"] = group.position.numpy()
        table["first_slot"] = -1
        rows = np.arange(count, dtype=np.uint64)
        table["slots"] = np.uint64(group.slots.data_ptr()) + rows * np.uint64(8 * longest)
        tables.append(table)
    return tables


def _dense_last(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _share_openmp() -> None:
    """Torch's own OpenMP runtime resolves the kernel's symbols: two would fight for the cores."""
    folder = Path(torch.__file__).parent
    for place in (folder / "lib", folder.parent / "torch.libs"):
        for runtime in sorted([*place.glob("libgomp*"), *place.glob("libiomp5*")]):
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
