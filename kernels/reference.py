"""The specification of prefix-shared attention, in plain torch and float32.

A step's queries lie packed in one tensor. What a query may read is the union of the *reads* that
cover it, one for each level of its prefix and one for what it has alone; no level is special and
there may be any number. With ``s_k = softcap(scale * q . k)`` over the visible keys k,

    output = sum_k exp(s_k) v_k / (sum_k exp(s_k) + exp(sink)),    lse = log sum_k exp(s_k)

where ``softcap(s) = cap * tanh(s / cap)`` and the sink, a learned logit of each head (GPT-OSS),
takes weight and gives nothing. Query heads share key heads in groups of ``heads / kv_heads``.
Every fast path is held against `attend`; the parts it merges against `attend_part`.
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


def store(
    key: Tensor,  # [queries, kv_heads, head_dim]
    value: Tensor,  # [queries, kv_heads, value_dim]
    key_cache: Tensor,  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    write_slots: Tensor,  # int64, each once  # [queries]
) -> None:
    """Every query's key and value lie in its slot, bit for bit; no other slot has changed."""
    key_cache[write_slots] = key
    value_cache[write_slots] = value


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
    output, lse = attend_part(query, keys, values, positions, reads, variant)
    if sinks is None:
        return output
    return output * torch.sigmoid(lse - sinks.float()).unsqueeze(-1)


def attend_part(
    query: Tensor,  # [queries, heads, head_dim]
    keys: Tensor,  # [slots, kv_heads, head_dim]
    values: Tensor,  # [slots, kv_heads, value_dim]
    positions: Tensor,  # int64  # [queries]
    reads: Sequence[Read],
    variant: Variant,
) -> tuple[Tensor, Tensor]:  # float32  # [queries, heads, value_dim], [queries, heads]
    """The attention over these reads alone, with its log-sum-exp; nothing seen is 0 and -inf."""
    group, rest = divmod(query.shape[1], keys.shape[1])
    assert rest == 0, f"{query.shape[1]} heads cannot share {keys.shape[1]} key heads evenly"
    outputs, sums = [], []
    for index in range(query.shape[0]):
        at = int(positions[index])
        slots = [_visible(read, at, variant.window) for read in reads if _covers(read, index)]
        seen = torch.cat([positions.new_empty(0), *slots])
        key = keys[seen].float().repeat_interleave(group, dim=1)  # [seen, heads, head_dim]
        value = values[seen].float().repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,shd->hs", query[index].float(), key) * variant.scale
        if variant.softcap is not None:
            scores = variant.softcap * torch.tanh(scores / variant.softcap)
        outputs.append(torch.einsum("hs,shd->hd", scores.softmax(dim=1), value))
        sums.append(scores.logsumexp(dim=1))
    return torch.stack(outputs), torch.stack(sums)


def _covers(read: Read, index: int) -> bool:
    return read.query_start <= index < read.query_end


def _visible(read: Read, at: int, window: int | None) -> Tensor:
    """Slots of the read that a query at this position sees."""
    first = 0 if window is None else max(0, at - window + 1 - read.position)
    return read.slots[first : max(first, at + 1 - read.position)]
