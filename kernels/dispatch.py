"""Which attention path serves which device, dtype, head size and sharing degree.

    path      where                                          sharing
    torch     any device: the CPU, and where nothing else is  every shared read by itself
    triton    CUDA from sm_80 on, with triton installed       by `tuned.Tuning.least_sharing`:
                                                             split decode, or a tile each

The choice is data; the paths agree with `reference.attend` and so with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from batchpipe.kernels import attention
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


def path_for(device: Device, dtype: torch.dtype, head_dim: int) -> str:
    """``triton`` where the fused kernels run, else ``torch``."""
    fused = (
        device.kind == "cuda"
        and device.has_triton
        and device.capability >= LEAST_CAPABILITY
        and dtype in FUSED_DTYPES
        and head_dim <= LARGEST_HEAD
    )
    return "triton" if fused else "torch"


class Dispatch:
    """Attention by the path that suits the device; lays out each step's work once for all layers.

    One object serves all the layers of one model: their grouping of heads is the same.
    """

    def __init__(self) -> None:
        self._layout: Layout | None = None
        self._work: Work | None = None

    def attend(
        self,
        query: Tensor,  # [queries, heads, head_dim]
        key: Tensor,  # [queries, kv_heads, head_dim]
        value: Tensor,  # [queries, kv_heads, value_dim]
        key_cache: Tensor,  # [slots, kv_heads, head_dim]
        value_cache: Tensor,  # [slots, kv_heads, value_dim]
        layout: Layout,
        variant: Variant,
        sinks: Tensor | None = None,  # [heads]
    ) -> Tensor:  # [queries, heads, value_dim]
        """The step's keys and values are stored, and every query has attended to its context."""
        device = device_of(query.device)
        largest = max(query.shape[2], value.shape[2])
        if path_for(device, query.dtype, largest) == "torch":
            return attention.attend(
                query, key, value, key_cache, value_cache, layout, variant, sinks
            )
        from batchpipe.kernels import fused  # needs triton

        if self._work is None or self._layout is not layout:
            grid = Grid(query.shape[1] // key.shape[1], key.shape[1], device.processors)
            tuning = tuning_for(device.capability, largest, query.dtype)
            self._work = lay_out(reads_of(layout), len(query), grid, tuning)
            self._layout = layout
        return fused.attend(
            query,
            key,
            value,
            key_cache,
            value_cache,
            layout.positions,
            layout.write_slots,
            self._work,
            variant,
            sinks,
        )
