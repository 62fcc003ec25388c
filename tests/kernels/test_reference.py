"""The specification against torch's own attention with every mask written out."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_steps import Step, slots_of, steps
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from batchpipe.kernels import reference
from batchpipe.kernels.reference import Read, Variant


def visible(step: Step, window: int | None) -> Tensor:  # bool  # [queries, slots]
    """Which query sees which slot, by asking about each position by itself."""
    seen = torch.zeros(len(step.positions), step.slots, dtype=torch.bool)
    for blocks, (keys, position, start, end) in zip(step.blocks, step.reads, strict=True):
        slots = slots_of(blocks)
        for query in range(start, end):
            distance = step.positions[query] - position - torch.arange(keys)
            near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            seen[query, slots[:keys][near]] = True
    return seen


def tensors(step: Step, heads: int, kv_heads: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step.slots)
    query = torch.randn(len(step.positions), heads, size, generator=draw)
    key, value = torch.randn(2, step.slots, kv_heads, size, generator=draw)
    return query, key, value


@settings(max_examples=25)
@given(step=steps, window=st.sampled_from([None, 1, 17, 64]), group=st.sampled_from([1, 3]))
def test_reads_add_up_to_plain_masked_attention(step: Step, window: int | None, group: int) -> None:
    query, key, value = tensors(step, 2 * group, 2, 20)
    found = reference.attend(
        query, key, value, torch.tensor(step.positions), step.spec(), Variant(0.2, window)
    )
    expected = scaled_dot_product_attention(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        attn_mask=visible(step, window)[None],
        scale=0.2,
        enable_gqa=True,
    )
    torch.testing.assert_close(found, expected.transpose(0, 1), rtol=0, atol=2e-5)


@settings(max_examples=10)
@given(step=steps)
def test_parts_merge_to_the_whole(step: Step) -> None:
    query, key, value = tensors(step, 2, 1, 16)
    positions, variant = torch.tensor(step.positions), Variant(0.25, softcap=3.0)
    reads = step.spec()
    whole, whole_lse = reference.attend_part(query, key, value, positions, reads, variant)
    parts = [reference.attend_part(query, key, value, positions, [r], variant) for r in reads]
    lse = torch.stack([part_lse for _, part_lse in parts]).logsumexp(0)
    merged = sum(output * torch.exp(each - lse)[..., None] for output, each in parts)
    torch.testing.assert_close(lse, whole_lse, rtol=0, atol=1e-5)
    torch.testing.assert_close(merged, whole, rtol=0, atol=1e-5)


def test_sinks_and_soft_caps_are_what_their_formulas_say() -> None:
    query = torch.tensor([[[2.0]]])
    keys, values = torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([[[10.0]], [[20.0]]])
    at, reads = torch.tensor([1]), [Read(0, 1, torch.tensor([0, 1]), 0)]
    capped = [5 * math.tanh(0.5 * 2 * k / 5) for k in (1, 3)]
    weights = [math.exp(score) for score in capped]
    variant = Variant(0.5, softcap=5.0)
    found = reference.attend(query, keys, values, at, reads, variant, torch.tensor([0.7]))
    total = sum(weights) + math.exp(0.7)
    expected = (10 * weights[0] + 20 * weights[1]) / total
    assert math.isclose(found.item(), expected, rel_tol=1e-6)


def test_a_query_that_reads_nothing_gets_nothing() -> None:
    query, key, value = torch.randn(1, 2, 8), torch.randn(4, 1, 8), torch.randn(4, 1, 8)
    output, lse = reference.attend_part(query, key, value, torch.tensor([0]), [], Variant(1.0))
    assert not output.any()
    assert (lse == float("-inf")).all()
