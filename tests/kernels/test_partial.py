"""Attention over parts of the keys: three ways to one part, and parts merged into the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from batchpipe.kernels.partial import dense_cpu, flash_cpu, merge_into, plain
from batchpipe.kernels.reference import Variant

# Rounding of outputs of about one; bfloat16 weights and outputs have 8 bits (2**-8 = 0.004).
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


def scale(size: int) -> float:
    return 1 / math.sqrt(size)


def parts(
    kv_heads: int, group: int, queries: int, keys: int, size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Random query [kv_heads, group, queries, size]; key and value [keys, kv_heads, size]."""
    draw = torch.Generator().manual_seed(queries * keys)
    query = torch.randn(kv_heads, group, queries, size, generator=draw).to(dtype)
    key, value = (torch.randn(keys, kv_heads, size, generator=draw).to(dtype) for _ in range(2))
    return query, key, value


def per_head(tensor: Tensor, group: int) -> Tensor:  # [kv_heads, group, keys, size]
    return tensor.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [16, 60, 128])
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (1, 65), (63, 1), (65, 63), (200, 700), (600, 33)]
)
def test_flash_dense_and_plain_parts_agree(
    queries: int, keys: int, size: int, dtype: torch.dtype
) -> None:
    query, key, value = parts(2, 2, queries, keys, size, dtype)
    variant = Variant(scale(size))
    expected, expected_lse = plain(query, per_head(key, 2), per_head(value, 2), variant)
    for found, found_lse in (
        flash_cpu(query, per_head(key, 2), per_head(value, 2), variant),
        dense_cpu(query, key, value, variant),
    ):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=TOLERANCE[dtype])
        torch.testing.assert_close(found_lse.float(), expected_lse, rtol=0, atol=1e-4)


@pytest.mark.parametrize("magnitude", [1e-3, 30.0])
def test_dense_part_stays_exact_where_one_key_takes_all_weight(magnitude: float) -> None:
    query, key, value = parts(2, 2, 64, 129, 16, torch.float32)
    variant = Variant(scale(16))
    query = query * magnitude
    expected, expected_lse = plain(query, per_head(key, 2), per_head(value, 2), variant)
    found, found_lse = dense_cpu(query, key, value, variant)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_lse, expected_lse, rtol=1e-5, atol=1e-5)


def test_flash_part_obeys_mask_and_causality_as_plain_does() -> None:
    query, key, value = parts(2, 3, 65, 65, 60, torch.float32)
    variant, keys, values = Variant(scale(60)), per_head(key, 3), per_head(value, 3)
    causal = torch.ones(65, 65, dtype=torch.bool).tril()
    some = (torch.arange(65) % 3 == 0)[None, None, None]
    for found, expected in (
        (
            flash_cpu(query, keys, values, variant, causal=True),
            plain(query, keys, values, variant, causal[None, None]),
        ),
        (flash_cpu(query, keys, values, variant, some), plain(query, keys, values, variant, some)),
    ):
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=2e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=2e-5)


def test_plain_part_is_the_same_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = parts(2, 2, 63, 65, 16, torch.float32)
    mask = (torch.arange(65)[None, :] <= torch.arange(63)[:, None])[None, None]
    arguments = (query, per_head(key, 2), per_head(value, 2), Variant(scale(16), softcap=3.0), mask)
    whole = plain(*arguments)
    monkeypatch.setattr("batchpipe.kernels.partial.SCORES_AT_ONCE", 4 * 65 * 10)
    for sliced, at_once in zip(plain(*arguments), whole, strict=True):
        torch.testing.assert_close(sliced, at_once, rtol=1e-6, atol=1e-6)


def test_query_that_sees_nothing_weighs_nothing() -> None:
    query, key, value = parts(1, 1, 4, 9, 16, torch.float32)
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[2] = False
    output, lse = plain(
        query, per_head(key, 1), per_head(value, 1), Variant(scale(16)), mask[None, None]
    )
    assert lse[0, 0, 2] == float("-inf")
    assert not output[0, 0, 2].any()


@pytest.mark.parametrize("cuts", [[30], [1, 64], [10, 11, 40, 60]])
def test_merged_parts_are_the_whole(cuts: list[int]) -> None:
    query, key, value = parts(1, 4, 65, 65, 16, torch.float32)
    variant = Variant(scale(16))
    whole, whole_lse = plain(query, per_head(key, 4), per_head(value, 4), variant)
    pieces = [
        plain(query, per_head(key[start:end], 4), per_head(value[start:end], 4), variant)
        for start, end in zip([0, *cuts], [*cuts, 65], strict=True)
    ]
    output, lse = pieces[0][0].clone(), pieces[0][1].clone()
    for part, part_lse in pieces[1:]:
        merge_into(output, lse, part, part_lse)
    torch.testing.assert_close(output, whole, rtol=0, atol=2e-6)
    torch.testing.assert_close(lse, whole_lse, rtol=0, atol=2e-6)


def test_empty_part_changes_nothing() -> None:
    output, lse = torch.randn(5, 2, 8), torch.randn(5, 2)
    before, before_lse = output.clone(), lse.clone()
    merge_into(output, lse, torch.zeros(5, 2, 8), torch.full((5, 2), float("-inf")))
    assert torch.equal(output, before)
    assert torch.equal(lse, before_lse)
