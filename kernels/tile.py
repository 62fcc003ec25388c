"""A tile of queries over a run of paged keys: the inner loops that prefill and decode share.

A tile's rows are queries times the heads of one group, so that a key is loaded once for all the
heads and queries that read it: row r holds head ``r % GROUP`` of query ``r // GROUP``.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from batchpipe.kernels.paged import READ_COLUMNS
from batchpipe.kernels.reference import Variant

LOG2_E = tl.constexpr(1.4426950408889634)  # exp2 is one instruction, exp two
COLUMNS = tl.constexpr(READ_COLUMNS)
FAR = tl.constexpr(2**30)  # beyond every position
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def load_rows(
    query,  # [queries, heads, head_dim]
    positions,  # int64  # [queries]
    rows,  # int32, the queries of this launch, in order  # [rows]
    row_start,
    row_end,
    query_stride,
    query_head_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The tile's queries [BLOCK_M, BLOCK_D], and index, head, position and presence of each row."""
    row = tl.arange(0, BLOCK_M)
    present = row_start + row // GROUP < row_end
    index = tl.load(rows + row_start + row // GROUP, mask=present, other=0).to(tl.int64)
    head = tl.program_id(1) * GROUP + row % GROUP
    position = tl.load(positions + index, mask=present, other=0).to(tl.int32)
    dims = tl.arange(0, BLOCK_D)
    tile = tl.load(
        query + index[:, None] * query_stride + head[:, None] * query_head_stride + dims[None, :],
        mask=present[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    return tile, index, head, position, present


@triton.jit
def attend_read(
    total,  # running softmax: weights [BLOCK_M], highest score, output [BLOCK_M, BLOCK_DV]
    top,
    output,
    tile,  # [BLOCK_M, BLOCK_D]
    row_position,  # [BLOCK_M]
    covered,  # bool, the rows that read these keys  # [BLOCK_M]
    whole,  # every present row does
    read,  # int32, this read's row of the table  # [COLUMNS]
    key_start,  # of the read's keys, those to attend to
    key_end,
    key_cache,  # [slots, kv_heads, head_dim]
    value_cache,  # [slots, kv_heads, value_dim]
    pages,  # int32  # [pages]
    key_stride,
    value_stride,
    scale,
    softcap,
    window,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The running softmax has taken in what the covered rows see of these keys."""
    pages += tl.load(read)
    keys = tl.load(read + 1)
    position = tl.load(read + 2)
    earliest = tl.min(tl.where(covered, row_position, FAR), 0)
    latest = tl.max(tl.where(covered, row_position, -1), 0)
    first = key_start
    last = tl.minimum(tl.minimum(key_end, keys), latest + 1 - position)
    if WINDOWED:
        first = tl.maximum(first, earliest - window + 1 - position)
    # Keys before `plain` are seen by every row: no mask is computed for them.
    plain = tl.minimum(last, earliest + 1 - position)
    if WINDOWED:
        plain = tl.where(position + first > latest - window, plain, first)
    plain = tl.where(whole, first + tl.maximum(plain - first, 0) // BLOCK_N * BLOCK_N, first)
    for start in tl.range(first, plain, BLOCK_N):
        total, top, output = _attend_keys(
            total, top, output, tile, row_position, covered, start, last, position,
            key_cache, value_cache, pages, key_stride, value_stride, scale, softcap, window,
            HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, PAGE_TOKENS,
            False, WINDOWED, SOFTCAPPED, PRECISION,
        )  # fmt: skip
    for start in tl.range(plain, last, BLOCK_N):
        total, top, output = _attend_keys(
            total, top, output, tile, row_position, covered, start, last, position,
            key_cache, value_cache, pages, key_stride, value_stride, scale, softcap, window,
            HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, PAGE_TOKENS,
            True, WINDOWED, SOFTCAPPED, PRECISION,
        )  # fmt: skip
    return total, top, output


@triton.jit
def _attend_keys(
    total,
    top,
    output,
    tile,
    row_position,
    covered,
    start,
    last,
    position,
    key_cache,
    value_cache,
    pages,
    key_stride,
    value_stride,
    scale,
    softcap,
    window,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of keys, ``start:start + BLOCK_N`` of the read."""
    at = start + tl.arange(0, BLOCK_N)
    inside = at < last
    page = tl.load(pages + at // PAGE_TOKENS, mask=inside, other=0).to(tl.int64)
    slot = page * PAGE_TOKENS + at % PAGE_TOKENS
    dims = tl.arange(0, BLOCK_D)
    key = tl.load(
        key_cache + slot[:, None] * key_stride + tl.program_id(1) * HEAD_DIM + dims[None, :],
        mask=inside[:, None] & (dims < HEAD_DIM)[None, :],
        other=0.0,
    )
    scores = _product(tile, tl.trans(key), PRECISION) * scale
    if SOFTCAPPED:
        scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)  # tanh
    scores *= LOG2_E
    if MASKED:
        key_position = position + at
        seen = covered[:, None] & inside[None, :]
        seen &= key_position[None, :] <= row_position[:, None]
        if WINDOWED:
            seen &= key_position[None, :] > row_position[:, None] - window
        scores = tl.where(seen, scores, float("-inf"))
    highest = tl.maximum(top, tl.max(scores, 1))
    base = tl.where(highest == float("-inf"), 0.0, highest)  # a row that has seen nothing yet
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(top - base)
    dims = tl.arange(0, BLOCK_DV)
    value = tl.load(
        value_cache + slot[:, None] * value_stride + tl.program_id(1) * VALUE_DIM + dims[None, :],
        mask=inside[:, None] & (dims < VALUE_DIM)[None, :],
        other=0.0,
    )
    taken = _product(weights.to(value.dtype), value, PRECISION)
    if MASKED:  # no weight times a NaN is NaN: what is broken stays with the rows that read it
        taken = tl.where(covered[:, None], taken, 0.0)
    return total * fade + tl.sum(weights, 1), highest, output * fade[:, None] + taken


@triton.jit
def _product(left, right, PRECISION: tl.constexpr):
    """``left @ right`` summed in float32."""
    if INTERPRETED:  # the interpreter multiplies the bit patterns of bfloat16 as integers
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, input_precision=PRECISION)


def launch_arguments(
    query: Tensor,  # [queries, heads, head_dim]
    key_cache: Tensor,  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    page_tokens: int,
    variant: Variant,
) -> dict[str, Any]:
    """What every attention kernel is launched with beside its tensors and its tile sizes."""
    for tensor in (query, key_cache, value_cache):
        assert tensor.stride(-1) == 1, f"a head lies in one piece, got strides {tensor.stride()}"
    for cache in (key_cache, value_cache):
        assert cache.stride(1) == cache.shape[2], "the heads of a slot lie side by side"
    head_dim, value_dim = query.shape[2], value_cache.shape[2]
    return {
        "query_stride": query.stride(0),
        "query_head_stride": query.stride(1),
        "key_stride": key_cache.stride(0),
        "value_stride": value_cache.stride(0),
        "scale": variant.scale,
        "softcap": variant.softcap or 1.0,
        "window": variant.window or 1,
        "GROUP": query.shape[1] // key_cache.shape[1],
        "HEAD_DIM": head_dim,
        "VALUE_DIM": value_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_DV": padded(value_dim),
        "PAGE_TOKENS": page_tokens,
        "WINDOWED": variant.window is not None,
        "SOFTCAPPED": variant.softcap is not None,
        # tf32 has 10 bits: greedy answers in float32 would no longer be those of `generate`.
        "PRECISION": "ieee" if query.dtype == torch.float32 else "tf32",
    }


def padded(size: int) -> int:
    """The power of two, 16 or more, that a matrix product of this size is padded to."""
    return max(16, 1 << (size - 1).bit_length())
