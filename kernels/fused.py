"""A step's attention in fused kernels: store, tiles, split decode; at most four launches a layer.

Imports the Triton files, so it is itself imported only where they are to run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchpipe.kernels.decode import attend_split
from batchpipe.kernels.prefill import attend_tiles
from batchpipe.kernels.reference import Variant
from batchpipe.kernels.store import store
from batchpipe.kernels.work import Work


def attend(
    query: Tensor,  # [queries, heads, head_dim]
    key: Tensor,  # of the step's tokens  # [tokens, kv_heads, head_dim]
    value: Tensor,  # [tokens, kv_heads, value_dim]
    key_cache: Tensor,  # written, then read  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    positions: Tensor,  # int64  # [queries]
    write_slots: Tensor,  # int64  # [tokens]
    work: Work,
    variant: Variant,
    sinks: Tensor | None = None,  # [heads]
) -> Tensor:  # of the query's dtype  # [queries, heads, value_dim]
    """The step's keys and values are stored, and every query has attended to its context."""
    store(key, value, key_cache, value_cache, write_slots)
    output = torch.empty(
        *query.shape[:2], value_cache.shape[2], dtype=query.dtype, device=query.device
    )
    caches = (key_cache, value_cache)
    for tiled in work.tiled:
        attend_tiles(query, *caches, positions, work.reads, tiled, variant, sinks, output)
    if work.split is not None:
        attend_split(query, *caches, positions, work.reads, work.split, variant, sinks, output)
    return output
