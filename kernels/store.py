"""Keys and values of a step go into paged KV in place, in one launch."""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK_TOKENS = 16


@triton.jit
def _store_kernel(  # grid: (blocks of tokens, kv_heads)
    key,  # [tokens, kv_heads, head_dim]
    value,  # [tokens, kv_heads, value_dim]
    key_cache,  # [slots, kv_heads, head_dim]
    value_cache,  # [slots, kv_heads, value_dim]
    write_slots,  # int64  # [tokens]
    tokens,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_stride,
    value_stride,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    token = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
    head = tl.program_id(1)
    dims = tl.arange(0, BLOCK_D)[None, :]
    slot = tl.load(write_slots + token, mask=token < tokens, other=0).to(tl.int64)
    in_key = (token < tokens) & (dims < HEAD_DIM)
    keys = tl.load(key + token * key_token_stride + head * key_head_stride + dims, mask=in_key)
    tl.store(key_cache + slot * key_stride + head * HEAD_DIM + dims, keys, mask=in_key)
    in_value = (token < tokens) & (dims < VALUE_DIM)
    values = tl.load(
        value + token * value_token_stride + head * value_head_stride + dims, mask=in_value
    )
    tl.store(value_cache + slot * value_stride + head * VALUE_DIM + dims, values, mask=in_value)


def store(
    key: Tensor,  # [tokens, kv_heads, head_dim]
    value: Tensor,  # [tokens, kv_heads, value_dim]
    key_cache: Tensor,  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    write_slots: Tensor,  # int64, each once  # [tokens]
) -> None:
    """Every token's key and value lie in its slot, as in `reference.store`."""
    tokens, kv_heads, head_dim = key.shape
    value_dim = value.shape[2]
    _store_kernel[(triton.cdiv(tokens, BLOCK_TOKENS), kv_heads)](
        key,
        value,
        key_cache,
        value_cache,
        write_slots,
        tokens,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        key_cache.stride(0),
        value_cache.stride(0),
        HEAD_DIM=head_dim,
        VALUE_DIM=value_dim,
        BLOCK_D=triton.next_power_of_2(max(head_dim, value_dim)),
        BLOCK_T=BLOCK_TOKENS,
    )
