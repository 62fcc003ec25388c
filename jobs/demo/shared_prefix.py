"""Training batches in which many tickets share one prefix, computed once per batch.

A batch is one packed sequence: the prefix, then ``rows`` segments of equal length, each padded at
its end. A segment sees the whole prefix and, causally, itself. Positions go on from the prefix's
end in every segment, so each segment sees exactly what it would see alone behind the prefix.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, LlamaForCausalLM

ATTENTION = "shared_prefix"


@dataclass(frozen=True, slots=True)
class Segment:
    """The token ids of one ticket: what the model reads behind the prefix, and what it writes."""

    question: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed training batch and the weight of each token in the loss."""

    prefix: Tensor  # [prefix_tokens]
    first_position: int  # of every segment
    segments: Tensor  # [rows, segment_tokens]
    weights: Tensor  # [rows, segment_tokens]


def pack(
    segments: Sequence[Segment], prefix: Sequence[int], first_position: int, question_weight: float
) -> Batch:
    """Return the batch of ``segments`` behind ``prefix``; answers weigh 1, padding weighs 0."""
    width = max(len(segment.question) + len(segment.answer) for segment in segments)
    token_ids = torch.zeros(len(segments), width, dtype=torch.long)
    weights = torch.zeros(len(segments), width)
    for row, segment in enumerate(segments):
        start, end = len(segment.question), len(segment.question) + len(segment.answer)
        token_ids[row, :end] = torch.tensor(segment.question + segment.answer)
        weights[row, :start] = question_weight
        weights[row, start:end] = 1.0
    return Batch(torch.tensor(prefix, dtype=torch.long), first_position, token_ids, weights)


def copying_batch(draw: random.Random, alphabet: Sequence[int], rows: int, width: int) -> Batch:
    """Return ``rows`` sequences that each repeat a random piece; only the repeats weigh.

    Pieces of many lengths leave no way but to look up what followed the last time: the skill that
    an order number needs. Tickets alone (8 rows, rate 3e-3) had not taught it after 1,600 steps.
    """
    token_ids = torch.zeros(rows, width, dtype=torch.long)
    weights = torch.zeros(rows, width)
    for row in range(rows):
        piece = draw.choices(alphabet, k=draw.randint(6, 16))
        token_ids[row] = torch.tensor((piece * width)[:width])
        weights[row, len(piece) + 1 :] = 1.0
    return Batch(torch.empty(0, dtype=torch.long), 0, token_ids, weights)


def hidden_states(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the last hidden state of every segment token, [rows, segment_tokens, hidden]."""
    rows, width = batch.segments.shape
    prefix_tokens = len(batch.prefix)
    segment_positions = batch.first_position + torch.arange(width).repeat(rows)
    states = model.model(
        input_ids=torch.cat([batch.prefix, batch.segments.flatten()])[None],
        position_ids=torch.cat([torch.arange(prefix_tokens), segment_positions])[None],
        use_cache=False,
        prefix_tokens=prefix_tokens,
        rows=rows,
    ).last_hidden_state
    return states[0, prefix_tokens:].unflatten(0, (rows, width))


def loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the weighted mean cross-entropy of the segment tokens, a scalar."""
    weights = batch.weights[:, 1:]
    counts = weights > 0
    logits = model.lm_head(hidden_states(model, batch)[:, :-1][counts])
    losses = F.cross_entropy(logits, batch.segments[:, 1:][counts], reduction="none")
    return (losses * weights[counts]).sum() / weights.sum()


def attend(
    module: torch.nn.Module,
    query: Tensor,  # [1, heads, tokens, head_dim]
    key: Tensor,  # [1, kv_heads, tokens, head_dim]
    value: Tensor,  # [1, kv_heads, tokens, head_dim]
    attention_mask: Tensor | None,
    scaling: float | None = None,
    prefix_tokens: int = 0,
    rows: int = 1,
    **_: object,
) -> tuple[Tensor, None]:
    """Return what every token of a packed batch attends to, [1, tokens, heads, head_dim]."""

    def segments(packed: Tensor) -> Tensor:  # [rows, heads, segment_tokens, head_dim]
        return packed[0, :, prefix_tokens:].unflatten(1, (rows, -1)).transpose(0, 1)

    prefix_key, prefix_value = key[:, :, :prefix_tokens], value[:, :, :prefix_tokens]
    keys = torch.cat([prefix_key.expand(rows, -1, -1, -1), segments(key)], dim=2)
    values = torch.cat([prefix_value.expand(rows, -1, -1, -1), segments(value)], dim=2)
    width = keys.shape[2] - prefix_tokens
    visible = torch.ones(width, prefix_tokens + width, dtype=torch.bool).tril(prefix_tokens)
    attended = F.scaled_dot_product_attention(
        segments(query), keys, values, attn_mask=visible, scale=scaling, enable_gqa=True
    )
    attended = attended.transpose(0, 1).flatten(1, 2)[None]
    if prefix_tokens:
        of_prefix = F.scaled_dot_product_attention(
            query[:, :, :prefix_tokens],
            prefix_key,
            prefix_value,
            is_causal=True,
            scale=scaling,
            enable_gqa=True,
        )
        attended = torch.cat([of_prefix, attended], dim=2)
    return attended.transpose(1, 2), None


AttentionInterface.register(ATTENTION, attend)
