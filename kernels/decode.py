"""Decode: shared prefixes read once for all queries below, private suffixes, all in one launch.

BatchLLM's horizontal fusion for any number of prefix levels: a task is a tile of the queries of
one read over a piece of its keys, whatever the level, so that long contexts are split among
processors (split-KV) and no level waits for another. A second kernel merges each query's parts by
log-sum-exp.
"""

# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from batchpipe.kernels.paged import PagedReads
from batchpipe.kernels.reference import Variant
from batchpipe.kernels.tile import COLUMNS, LOG2_E, attend_read, launch_arguments, load_rows
from batchpipe.kernels.work import TASK_COLUMNS, SplitWork

WORK_COLUMNS = tl.constexpr(TASK_COLUMNS)


@triton.jit
def _part(
    query, key_cache, value_cache, positions, pages, reads, rows, task, part_first, parts, part_lse,
    query_stride, query_head_stride, key_stride, value_stride, scale, softcap, window,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PAGE_TOKENS: tl.constexpr,
    WINDOWED: tl.constexpr, SOFTCAPPED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One task with a tile of this height; its output and log2-sum-exp2 stand among the parts."""
    row_start = tl.load(task + 1)
    tile, _, head, position, present = load_rows(
        query, positions, rows, row_start, tl.load(task + 2), query_stride, query_head_stride,
        GROUP, HEAD_DIM, BLOCK_M, BLOCK_D,
    )  # fmt: skip
    total, top, output = attend_read(
        tl.zeros([BLOCK_M], tl.float32),
        tl.full([BLOCK_M], float("-inf"), tl.float32),
        tl.zeros([BLOCK_M, BLOCK_DV], tl.float32),
        tile, position, present, True,
        reads + tl.load(task) * COLUMNS, tl.load(task + 3), tl.load(task + 4),
        key_cache, value_cache, pages, key_stride, value_stride, scale, softcap, window,
        HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_DV, BLOCK_N, PAGE_TOKENS,
        WINDOWED, SOFTCAPPED, PRECISION,
    )  # fmt: skip
    row = row_start + tl.arange(0, BLOCK_M) // GROUP
    part = tl.load(part_first + row, mask=present, other=0).to(tl.int64) + tl.load(task + 5)
    place = part * (tl.num_programs(1) * GROUP) + head
    dims = tl.arange(0, BLOCK_DV)
    seen = total != 0.0  # NaN is not zero
    tl.store(
        parts + place[:, None] * VALUE_DIM + dims[None, :],
        output / tl.where(seen, total, 1.0)[:, None],
        mask=present[:, None] & (dims < VALUE_DIM)[None, :],
    )
    lse = tl.where(seen, top + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
    tl.store(part_lse + place, lse, mask=present)


@triton.jit
def _split_kernel(  # grid: (tasks, kv_heads)
    query,  # [queries, heads, head_dim]
    key_cache,  # [slots, kv_heads, head_dim]
    value_cache,  # [slots, kv_heads, value_dim]
    positions,  # int64  # [queries]
    pages,  # int32  # [pages]
    reads,  # int32  # [reads, COLUMNS]
    rows,  # int32  # [rows]
    tasks,  # int32, read, row_start, row_end, key_start, key_end, part  # [tasks, WORK_COLUMNS]
    part_first,  # int32, of each row, and the count of parts behind the last  # [rows + 1]
    parts,  # float32  # [parts, heads, value_dim]
    part_lse,  # float32, to the base 2  # [parts, heads]
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
    LOW_M: tl.constexpr,
    LOW_N: tl.constexpr,
    TALL_M: tl.constexpr,
    TALL_N: tl.constexpr,
):
    task = tasks + tl.program_id(0) * WORK_COLUMNS
    if (tl.load(task + 2) - tl.load(task + 1)) * GROUP <= LOW_M:  # one query or few
        _part(
            query, key_cache, value_cache, positions, pages, reads, rows, task, part_first, parts,
            part_lse, query_stride, query_head_stride, key_stride, value_stride, scale, softcap,
            window, GROUP, HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_DV, PAGE_TOKENS,
            WINDOWED, SOFTCAPPED, PRECISION, LOW_M, LOW_N,
        )  # fmt: skip
    else:
        _part(
            query, key_cache, value_cache, positions, pages, reads, rows, task, part_first, parts,
            part_lse, query_stride, query_head_stride, key_stride, value_stride, scale, softcap,
            window, GROUP, HEAD_DIM, VALUE_DIM, BLOCK_D, BLOCK_DV, PAGE_TOKENS,
            WINDOWED, SOFTCAPPED, PRECISION, TALL_M, TALL_N,
        )  # fmt: skip


@triton.jit
def _merge_kernel(  # grid: (rows, heads)
    parts,  # float32  # [parts, heads, value_dim]
    part_lse,  # float32, to the base 2  # [parts, heads]
    part_first,  # int32  # [rows + 1]
    rows,  # int32  # [rows]
    sinks,  # [heads]
    output,  # [queries, heads, value_dim]
    VALUE_DIM: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    SINKS: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    dims = tl.arange(0, BLOCK_DV)
    # A sink is a part that gives nothing.
    top = tl.load(sinks + head).to(tl.float32) * LOG2_E if SINKS else float("-inf")
    total = 1.0 if SINKS else 0.0
    merged = tl.zeros([BLOCK_DV], tl.float32)
    first = tl.load(part_first + row).to(tl.int64)
    for part in range(tl.load(part_first + row + 1) - first):
        place = (first + part) * heads + head
        lse = tl.load(part_lse + place)
        highest = tl.maximum(top, lse)
        base = tl.where(highest == float("-inf"), 0.0, highest)
        fade = tl.exp2(top - base)
        weight = tl.exp2(lse - base)
        part_output = tl.load(parts + place * VALUE_DIM + dims, mask=dims < VALUE_DIM, other=0.0)
        merged = merged * fade + part_output * weight
        total = total * fade + weight
        top = highest
    place = tl.load(rows + row).to(tl.int64) * heads + head
    tl.store(
        output + place * VALUE_DIM + dims,
        (merged / total).to(output.dtype.element_ty),
        mask=dims < VALUE_DIM,
    )


def attend_split(
    query: Tensor,  # [queries, heads, head_dim]
    key_cache: Tensor,  # [slots, kv_heads, head_dim]
    value_cache: Tensor,  # [slots, kv_heads, value_dim]
    positions: Tensor,  # int64  # [queries]
    reads: PagedReads,
    work: SplitWork,
    variant: Variant,
    sinks: Tensor | None,  # [heads]
    output: Tensor,  # [queries, heads, value_dim]
) -> None:
    """Every query of this work has its attention over all its reads in ``output``."""
    heads, value_dim = output.shape[1:]
    parts = torch.empty(work.parts, heads, value_dim, dtype=torch.float32, device=query.device)
    part_lse = torch.empty(work.parts, heads, dtype=torch.float32, device=query.device)
    arguments = launch_arguments(query, key_cache, value_cache, reads.page_tokens, variant)
    _split_kernel[(len(work.tasks), key_cache.shape[1])](
        query,
        key_cache,
        value_cache,
        positions,
        reads.pages,
        reads.on_device,
        work.rows,
        work.tasks,
        work.part_first,
        parts,
        part_lse,
        **arguments,
        LOW_M=work.low.rows,
        LOW_N=work.low.keys,
        TALL_M=work.tall.rows,
        TALL_N=work.tall.keys,
        num_warps=work.tall.warps,
        num_stages=work.tall.stages,
    )
    _merge_kernel[(len(work.rows), heads)](
        parts,
        part_lse,
        work.part_first,
        work.rows,
        positions if sinks is None else sinks,
        output,
        VALUE_DIM=value_dim,
        BLOCK_DV=arguments["BLOCK_DV"],
        SINKS=sinks is not None,
        num_warps=1,
    )
