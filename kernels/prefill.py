"""Ragged prefill over paged KV: each tile of queries walks through all its reads.

A tile keeps its running softmax from the root of the prefix to its own causal part, so nothing is
merged afterwards. With tiles of one query it is decode without sharing.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from batchpipe.kernels.paged import QUERY_END, QUERY_START, PagedReads
from batchpipe.kernels.reference import Variant
from batchpipe.kernels.tile import COLUMNS, FAR, LOG2_E, attend_read, launch_arguments, load_rows
from batchpipe.kernels.work import TILE_COLUMNS, TiledWork

START_COLUMN = tl.constexpr(QUERY_START)
END_COLUMN = tl.constexpr(QUERY_END)
WORK_COLUMNS = tl.constexpr(TILE_COLUMNS)


@triton.jit
def _tiled_kernel(  # grid: (tiles, kv_heads)
    query,  # [queries, heads, head_dim]
    key_cache,  # [slots, kv_heads, head_dim]
    value_cache,  # [slots, kv_heads, value_dim]
    positions,  # int64  # [queries]
    pages,  # int32  # [pages]
    reads,  # int32  # [reads, COLUMNS]
    rows,  # int32  # [rows]
    tiles,  # int32, row_start, row_end, list_start, list_end  # [tiles, WORK_COLUMNS]
    tile_reads,  # int32, the reads of each tile in turn  # [listed]
    sinks,  # [heads]
    output,  # [queries, heads, value_dim]
    query_stride,
    query_head_stride,
    key_stride,
    value_stride,
    scale,
    softcap,
    window,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    WINDOWED: tl.constexpr,
    SOFTCAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SINKS: tl.constexpr,
):
    work = tiles + tl.program_id(0) * WORK_COLUMNS
    tile, index, head, position, present = load_rows(
        query, positions, rows, tl.load(work), tl.load(work + 1), query_stride, query_head_stride,
        GROUP, HEAD_DIM, BLOCK_M, BLOCK_D,
    )  # fmt: skip
    first_query = tl.min(tl.where(present, index, FAR), 0)
    last_query = tl.max(tl.where(present, index, -1), 0)
    total = tl.zeros([BLOCK_M], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    taken = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    for listed in range(tl.load(work + 2), tl.load(work + 3)):
        read = reads + tl.load(tile_reads + listed) * COLUMNS
        start = tl.load(read + START_COLUMN)
        end = tl.load(read + END_COLUMN)
        covered = present & (index >= start) & (index < end)
        whole = (first_query >= start) & (last_query < end)
        total, top, taken = attend_read(
            total, top, taken, tile, position, covered, whole, read, 0, FAR,
            key_cache, value_cache, pages, key_stride, value_stride, scale, softcap, window,
            HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, PAGE_TOKENS,
            WINDOWED, SOFTCAPPED, PRECISION,
        )  # fmt: skip
    if SINKS:
        sink = tl.load(sinks + head, mask=present, other=0.0).to(tl.float32) * LOG2_E
        total += tl.exp2(tl.minimum(sink - top, 126.0))  # 2**-126 of the weight: nothing
    dims = tl.arange(0, BLOCK_DV)
    heads = tl.num_programs(1) * GROUP
    place = (index * heads + head) * VALUE_DIM
    tl.store(
        output + place[:, None] + dims[None, :],
        (taken / tl.where(present, total, 1.0)[:, None]).to(output.dtype.element_ty),
        mask=present[:, None] & (dims < VALUE_DIM)[None, :],
    )


def attend_tiles(
    query: Tensor,  # [queries, heads, head_dim]
    key_cache: Tensor,  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    positions: Tensor,  # int64  # [queries]
    reads: PagedReads,
    work: TiledWork,
    variant: Variant,
    sinks: Tensor | None,  # [heads]
    output: Tensor,  # [queries, heads, value_dim]
) -> None:
    """Every query of these tiles has its attention over all its reads in ``output``."""
    _tiled_kernel[(len(work.tiles), key_cache.shape[1])](
        query,
        key_cache,
        value_cache,
        positions,
        reads.pages,
        reads.on_device,
        work.rows,
        work.tiles,
        work.tile_reads,
        positions if sinks is None else sinks,
        output,
        **launch_arguments(query, key_cache, value_cache, reads.page_tokens, variant),
        BLOCK_M=work.tile.rows,
        BLOCK_N=work.tile.keys,
        SINKS=sinks is not None,
        num_warps=work.tile.warps,
        num_stages=work.tile.stages,
    )
