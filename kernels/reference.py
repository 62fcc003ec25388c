"""The specification of prefix-shared attention, in plain torch and float32.

A step's queries lie packed in one tensor. What a query may read is the union of the *reads* that
cover it; every fast path is held against `attend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Queries ``query_start:query_end`` read the keys in ``slots``, as far as causality allows.

    The keys hold the consecutive positions ``position, position + 1, ...``; a query sees those at
    or before its own position. No two reads of a query overlap.
    """

    query_start: int
    query_end: int
    slots: Tensor  # int64  # [keys]
    position: int


@dataclass(frozen=True, slots=True)
class Variant:
    """What a layer does beside plain softmax attention."""

    scale: float
    window: int | None = None  # a query sees this many positions, itself included
    softcap: float | None = None  # scores become softcap * tanh(score / softcap)


def attend(
    query: Tensor,  # [queries, heads, head_dim]
    keys: Tensor,  # [slots, kv_heads, head_dim]
    values: Tensor,  # [slots, kv_heads, value_dim]
    positions: Tensor,  # int64, position of each query  # [queries]
    reads: Sequence[Read],
    variant: Variant,
    sinks: Tensor | None = None,  # logits that take weight and give nothing  # [heads]
) -> Tensor:  # float32  # [queries, heads, value_dim]
    """Softmax attention of every query over the union of its reads."""
    group = query.shape[1] // keys.shape[1]
    outputs = []
    for index in range(query.shape[0]):
        at = int(positions[index])
        slots = [_visible(read, at, variant.window) for read in reads if _covers(read, index)]
        seen = torch.cat(slots)
        key = keys[seen].float().repeat_interleave(group, dim=1)  # [seen, heads, head_dim]
        value = values[seen].float().repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,shd->hs", query[index].float(), key) * variant.scale
        if variant.softcap is not None:
            scores = variant.softcap * torch.tanh(scores / variant.softcap)
        if sinks is not None:
            scores = torch.cat([scores, sinks.float()[:, None]], dim=1)
        weights = scores.softmax(dim=1)[:, : len(seen)]
        outputs.append(torch.einsum("hs,shd->hd", weights, value))
    return torch.stack(outputs)


def _covers(read: Read, index: int) -> bool:
    return read.query_start <= index < read.query_end


def _visible(read: Read, at: int, window: int | None) -> Tensor:
    """Slots of the read that a query at this position sees."""
    first = 0 if window is None else max(0, at - window + 1 - read.position)
    return read.slots[first : max(first, at + 1 - read.position)]
