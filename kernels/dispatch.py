"""Which attention path serves which device, dtype, head size and sharing degree.

    path      where                                          sharing
    torch     any device, where nothing else serves           every shared read by itself
    native    x86-64 with AVX2, where csrc/ was compiled      every shared read by itself
    triton    CUDA from sm_80 on, with triton installed       by `tuned.Tuning.least_sharing`:
                                                             split decode, or a tile each

The choice is data; the paths agree with `reference.attend` and so with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from batchpipe.kernels import attention, native
from batchpipe.kernels.layout import Layout
from batchpipe.kernels.paged import reads_of
from batchpipe.kernels.reference import Variant
from batchpipe.kernels.tuned import LARGEST_HEAD, tuning_for
from batchpipe.kernels.work import Grid, Work, lay_out

FUSED_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class Device:
    """What the choice of a path needs to know of a device."""

    kind: str  # "cpu", "cuda"
    capability: tuple[int, int] = (0, 0)
    processors: int = 1
    has_triton: bool = False


@cache
def device_of(device: torch.device) -> Device:
    """The device as the choice sees it."""
    if device.type != "cuda":
        return Device(device.type)
    properties = torch.cuda.get_device_properties(device)
    return Device(
        device.type,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        find_spec("triton") is not None,
    )


def path_for(
    device: Device, dtype: torch.dtype, head_dims: tuple[int, int], variant: Variant
) -> str:
    """``triton`` or ``native`` where the fused or the compiled kernels run, else ``torch``."""
    if device.kind == "cpu" and native.serves(dtype, head_dims, variant):
        return "native"
    fused = (
        device.kind == "cuda"
        and device.has_triton
        and device.capability >= LEAST_CAPABILITY
        and dtype in FUSED_DTYPES
        and max(head_dims) <= LARGEST_HEAD
    )
    return "triton" if fused else "torch"


class Dispatch:
    """Attention by the path that suits the device; lays out each step's work once for all layers.

    One object serves all the layers of one model: their grouping of heads is the same. What it
    keeps of a layout goes with the layout.
    """

    def __init__(self) -> None:
        self._layout: ReferenceType[Layout] | None = None
        self._work: Work | None = None  # of the layout, for the fused kernels
        self._reads: native.Reads | None = None  # of the layout, for the compiled kernel

    def _forget(self, _gone: object = None) -> None:
        self._layout = self._work = self._reads = None

    def attend(
        self,
        query: Tensor,  # [queries, heads, head_dim]
        key: Tensor,  # [tokens, kv_heads, head_dim]
        value: Tensor,  # [tokens, kv_heads, value_dim]
        key_cache: Tensor,  # [slots, kv_heads, head_dim]
        value_cache: Tensor,  # [slots, kv_heads, value_dim]
        layout: Layout,
        variant: Variant,
        sinks: Tensor | None = None,  # [heads]
    ) -> Tensor:  # [queries, heads, value_dim]
        """The step's keys and values are stored, and every query has attended to its context."""
        if self._layout is None or self._layout() is not layout:
            self._forget()
            self._layout = ref(layout, self._forget)
        device = device_of(query.device)
        head_dims = (query.shape[2], value.shape[2])
        step = (query, key, value, key_cache, value_cache, layout)
        path = path_for(device, query.dtype, head_dims, variant)
        if path == "torch":
            return attention.attend(*step, variant, sinks)
        if path == "native":
            if self._reads is None:
                self._reads = native.reads_of(layout)
            return native.attend(*step, self._reads, variant, sinks)
        from batchpipe.kernels import fused  # needs triton

        if self._work is None:
            grid = Grid(query.shape[1] // key.shape[1], key.shape[1], device.processors)
            tuning = tuning_for(device.capability, max(head_dims), query.dtype)
            self._work = lay_out(reads_of(layout), len(query), grid, tuning)
        written = (layout.positions, layout.write_slots)
        return fused.attend(*step[:5], *written, self._work, variant, sinks)
