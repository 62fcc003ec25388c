"""Prefix-shared attention over paged KV: a shared prefix is read once for all the queries below it.

BatchLLM's prefix-shared attention for any number of tree levels: every level is a dense product
of all its queries with its keys, each query's own tail comes apart, and the parts merge by
log-sum-exp. Held against `reference.attend`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchpipe.kernels.layout import Layout, SharedRead, Singles, take
from batchpipe.kernels.partial import (
    Partial,
    dense_cpu,
    flash_cpu,
    merge_into,
    onednn_computes,
    plain,
)
from batchpipe.kernels.reference import Variant

DENSE_MIN_QUERIES = 48  # fewer do not pay for bringing the keys to float32
# A larger square is cut, 1,024 tokens of 8 heads on one EPYC core: float32 19.4 ms whole, 15.7 ms
# cut to 256; bfloat16 19.4 and 14.9 ms.
WHOLE_SQUARE_TOKENS = 256


def attend(
    query: Tensor,  # [queries, heads, head_dim]
    key: Tensor,  # of the step's tokens  # [tokens, kv_heads, head_dim]
    value: Tensor,  # [tokens, kv_heads, value_dim]
    key_cache: Tensor,  # written at the layout's slots, then read  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    layout: Layout,
    variant: Variant,
    sinks: Tensor | None = None,  # [heads]
) -> Tensor:  # of the query's dtype  # [queries, heads, value_dim]
    """The step's keys and values are stored, and every query has attended to its context."""
    key_cache.index_copy_(0, layout.write_slots, key)
    value_cache.index_copy_(0, layout.write_slots, value)
    shape = (*query.shape[:2], value.shape[2])
    output = torch.empty(shape, dtype=torch.float32, device=query.device)
    lse = torch.empty(shape[:2], dtype=torch.float32, device=query.device)
    for start, end in layout.squares:
        own = slice(start, end)
        output[own], lse[own] = _square(
            query[own], key[own], value[own], layout.positions[own], variant
        )
    for singles in layout.singles:
        rows = singles.query
        part, part_lse = _singles(query[rows], key_cache, value_cache, singles, layout, variant)
        output[rows], lse[rows] = part.flatten(1, 2).to(output.dtype), part_lse.flatten(1, 2)
    for shared in layout.shared:
        below = slice(shared.read.query_start, shared.read.query_end)
        seen = _shared(query[below], key_cache, value_cache, shared, layout, variant)
        if seen is not None:
            merge_into(output[below], lse[below], *_packed(seen))
    if sinks is not None:
        output *= torch.exp(lse - torch.logaddexp(lse, sinks.float())).unsqueeze(-1)
    return output.to(query.dtype)


def _square(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, variant: Variant
) -> Partial:  # [queries, heads, value_dim], [queries, heads]
    """A chunk among itself, causal."""
    in_window = variant.window is None or len(query) <= variant.window
    if in_window and _flash_serves(query, value, variant):
        return _causal(query, key, value, variant)
    distance = positions[:, None] - positions[None, :]
    seen = distance >= 0
    if variant.window is not None:
        seen &= distance < variant.window
    return _packed(plain(*_by_kv_head(query, key, value), variant, seen[None, None]))


def _causal(query: Tensor, key: Tensor, value: Tensor, variant: Variant) -> Partial:
    """A square by the flash kernel; a large one as two halves and what the later sees of the other.

    All queries of the later half see all keys of the earlier one: that is dense.
    """
    if len(query) <= WHOLE_SQUARE_TOKENS or not onednn_computes(value.dtype):
        return _packed(flash_cpu(*_by_kv_head(query, key, value), variant, causal=True))
    half = len(query) // 2
    output = torch.empty(*query.shape[:2], value.shape[2], dtype=torch.float32)
    lse = torch.empty(query.shape[:2], dtype=torch.float32)
    for own in (slice(0, half), slice(half, None)):
        output[own], lse[own] = _causal(query[own], key[own], value[own], variant)
    later = _by_kv_head(query[half:], key[:half], value[:half])[0]
    between = dense_cpu(later, key[:half], value[:half], variant)
    merge_into(output[half:], lse[half:], *_packed(between))
    return output, lse


def _shared(
    query: Tensor,  # the queries of the read alone  # [queries, heads, head_dim]
    key_cache: Tensor,
    value_cache: Tensor,
    shared: SharedRead,
    layout: Layout,
    variant: Variant,
) -> Partial | None:
    """All queries of the read over all its keys; None where every key is out of the window."""
    slots, position, run = shared.read.slots, shared.read.position, shared.run
    if variant.window is not None:
        unseen = max(0, shared.first_query_position - variant.window + 1 - position)
        slots, position = slots[unseen:], position + unseen  # the rest is too old for every query
        run = None if run is None else slice(run.start + unseen, run.stop)
        if not len(slots):
            return None
    key, value = take(key_cache, slots, run), take(value_cache, slots, run)
    by_kv_head = _by_kv_head(query, key, value)
    in_window = variant.window is None or shared.last_query_position - position < variant.window
    if in_window and _flash_serves(query, value, variant):
        if len(query) >= DENSE_MIN_QUERIES and onednn_computes(value.dtype):
            return dense_cpu(by_kv_head[0], key, value, variant)
        return flash_cpu(*by_kv_head, variant)
    mask = None
    if variant.window is not None and not in_window:
        at = layout.positions[shared.read.query_start : shared.read.query_end]
        keys_at = position + torch.arange(len(slots), device=at.device)
        mask = (at[:, None] - keys_at[None, :] < variant.window)[None, None]
    return plain(*by_kv_head, variant, mask)


def _singles(
    query: Tensor,  # [singles, heads, head_dim]
    key_cache: Tensor,
    value_cache: Tensor,
    singles: Singles,
    layout: Layout,
    variant: Variant,
) -> Partial:  # [singles, kv_heads, group, value_dim], [singles, kv_heads, group]
    """Every single over its own padded slots; a group's query heads share their key head."""
    count, longest = singles.slots.shape
    kv_heads = key_cache.shape[1]
    flat = singles.slots.flatten()
    key = take(key_cache, flat, None).view(count, longest, kv_heads, -1).transpose(1, 2)
    value = take(value_cache, flat, None).view(count, longest, kv_heads, -1).transpose(1, 2)
    grouped = query.view(count, kv_heads, -1, query.shape[2])
    offsets = torch.arange(longest, device=query.device)
    mask = offsets[None, :] < singles.lengths[:, None]
    if variant.window is not None:
        at = layout.positions[singles.query]
        mask &= at[:, None] - (singles.position[:, None] + offsets) < variant.window
    if _flash_serves(query, value, variant):
        return flash_cpu(grouped, key, value, variant, mask[:, None, None])
    return plain(grouped, key, value, variant, mask[:, None, None])


def _by_kv_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views ``[kv_heads, group, tokens, head_dim]``: a key head is never copied for its group."""
    queries, heads, head_dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    return (
        query.view(queries, kv_heads, group, head_dim).permute(1, 2, 0, 3),
        key.transpose(0, 1).unsqueeze(1).expand(kv_heads, group, *key.shape[::2]),
        value.transpose(0, 1).unsqueeze(1).expand(kv_heads, group, *value.shape[::2]),
    )


def _packed(part: Partial) -> Partial:
    """From ``[kv_heads, group, queries, value_dim]`` to ``[queries, heads, value_dim]``."""
    output, lse = part
    return output.permute(2, 0, 1, 3).flatten(1, 2), lse.permute(2, 0, 1).flatten(1, 2)


def _flash_serves(query: Tensor, value: Tensor, variant: Variant) -> bool:
    same_size = query.shape[-1] == value.shape[-1]
    return query.device.type == "cpu" and variant.softcap is None and same_size
