"""How a step's attention is cut into programs: tiles that walk their reads, and split tasks.

Queries of chunks are laid out in tiles; each tile walks all the reads of its queries (`TiledWork`).
Decodes are cut by reads instead: a task is a tile of one read's queries over a piece of its keys
(`SplitWork`), so that a prefix is read once for all queries below it. Where too little is shared
for that to pay, a decode is a tile of one query. Knows tables of integers, never a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from batchpipe.kernels.paged import KEYS, QUERY_END, QUERY_START, PagedReads
from batchpipe.kernels.tuned import Tile, Tuning

TILE_COLUMNS = 4
TASK_COLUMNS = 6


@dataclass(frozen=True, slots=True, eq=False)
class TiledWork:
    """Tiles of queries that walk their reads, the longest walk first."""

    tile: Tile
    rows: Tensor  # int32, the queries of this work, in order  # [rows]
    tiles: Tensor  # int32, row_start, row_end, list_start, list_end  # [tiles, TILE_COLUMNS]
    tile_reads: Tensor  # int32, indexes of reads  # [listed]


@dataclass(frozen=True, slots=True, eq=False)
class SplitWork:
    """Tasks over pieces of reads, the longest first, and where each query's parts stand."""

    low: Tile
    tall: Tile
    rows: Tensor  # int32  # [rows]
    tasks: Tensor  # int32, read, row_start, row_end, key_start, key_end, part  # [tasks, 6]
    part_first: Tensor  # int32  # [rows + 1]
    parts: int


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One step's attention; every query is in exactly one of its works."""

    reads: PagedReads
    tiled: tuple[TiledWork, ...]
    split: SplitWork | None


@dataclass(frozen=True, slots=True)
class Grid:
    """What work is cut for."""

    group: int  # heads / kv_heads
    kv_heads: int
    processors: int


def lay_out(reads: PagedReads, queries: int, grid: Grid, tuning: Tuning) -> Work:
    """The step's work: chunks in tiles, decodes split or, where they hardly share, in tiles."""
    chunked = _narrowest(reads, queries) >= tuning.least_chunk
    tiled = []
    if bool(chunked.any()):
        tile = tuning.prefill.taller(grid.group)
        tiled.append(_tiled(reads, chunked, tile, tile.rows // grid.group))
    split = None
    decoding = ~chunked
    if bool(decoding.any()):
        programs = int(decoding.sum()) * grid.kv_heads
        full = programs >= tuning.programs_per_processor * grid.processors
        if full and sharing_degree(reads, decoding) < tuning.least_sharing:
            tiled.append(_tiled(reads, decoding, tuning.single.taller(grid.group), 1))
        else:
            split = _split(reads, decoding, grid, tuning)
    return Work(reads, tuple(tiled), split)


def sharing_degree(reads: PagedReads, chosen: Tensor) -> float:  # bool  # [queries]
    """How many of the chosen queries read a key, on average over the keys that they read."""
    _, starts, ends = _compacted(reads, chosen)
    keys = reads.table[:, KEYS]
    read_by_any = keys[ends > starts].sum()
    return float((keys * (ends - starts)).sum() / read_by_any.clamp(min=1))


def _narrowest(reads: PagedReads, queries: int) -> Tensor:  # int64  # [queries]
    """Queries of the narrowest read of each query: the tokens of its chunk."""
    starts, ends = reads.table[:, QUERY_START], reads.table[:, QUERY_END]
    owner, query = _pairs(starts, ends)
    width = torch.full((queries,), queries, dtype=torch.int64)
    return width.scatter_reduce_(0, query, (ends - starts)[owner], "amin")


def _tiled(reads: PagedReads, chosen: Tensor, tile: Tile, tile_queries: int) -> TiledWork:
    rows, starts, ends = _compacted(reads, chosen)
    count = -(-len(rows) // tile_queries)
    tile_ends = torch.where(ends > starts, -(-ends // tile_queries), starts // tile_queries)
    read, tile_index = _pairs(starts // tile_queries, tile_ends)
    order = tile_index.argsort(stable=True)  # within a tile from the root on
    listed = torch.bincount(tile_index, minlength=count).cumsum(0)
    first = torch.arange(count) * tile_queries
    table = torch.stack(
        [first, (first + tile_queries).clamp(max=len(rows)), listed.roll(1), listed], dim=1
    )
    table[0, 2] = 0
    keys = torch.zeros(count, dtype=torch.int64)
    keys.index_add_(0, tile_index, reads.table[read, KEYS])
    table = table[keys.argsort(descending=True, stable=True)]
    device = reads.pages.device
    return TiledWork(tile, _sent(rows, device), _sent(table, device), _sent(read[order], device))


def _split(reads: PagedReads, chosen: Tensor, grid: Grid, tuning: Tuning) -> SplitWork:
    low, tall = tuning.low.taller(grid.group), tuning.tall.taller(grid.group)
    rows, starts, ends = _compacted(reads, chosen)
    keys = torch.where(ends > starts, reads.table[:, KEYS], 0)
    tiles = -(-(ends - starts) // (tall.rows // grid.group))
    split_keys = _split_keys(keys, tiles, grid, tuning)
    splits = -(-keys // split_keys)
    part, part_first = _parts(starts, ends, splits, len(rows))
    read, ordinal = _pairs(torch.zeros_like(tiles), tiles * splits)
    tile, split = ordinal // splits[read], ordinal % splits[read]
    tile_queries = tall.rows // grid.group
    row_start = starts[read] + tile * tile_queries
    row_end = torch.minimum(row_start + tile_queries, ends[read])
    key_start = split * split_keys
    key_end = torch.minimum(key_start + split_keys, keys[read])
    table = torch.stack([read, row_start, row_end, key_start, key_end, part[read] + split], dim=1)
    cost = (key_end - key_start) * (row_end - row_start + tile_queries)
    table = table[cost.argsort(descending=True, stable=True)]
    device = reads.pages.device
    return SplitWork(
        low,
        tall,
        _sent(rows, device),
        _sent(table, device),
        _sent(part_first, device),
        int(part_first[-1]),
    )


def _split_keys(keys: Tensor, tiles: Tensor, grid: Grid, tuning: Tuning) -> int:
    """Keys of a part: so many that the processors are busy, and no fewer than pay for merging."""
    programs = tuning.programs_per_processor * grid.processors
    wanted = int((keys * tiles).sum()) * grid.kv_heads // programs
    return max(tuning.least_split_keys, 1 << max(0, wanted - 1).bit_length())


def _parts(starts: Tensor, ends: Tensor, splits: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Each read's first part among those of its rows, and each row's first among all."""
    read, row = _pairs(starts, ends)
    order = row.argsort(stable=True)
    read, row = read[order], row[order]
    before = splits[read].cumsum(0) - splits[read]  # parts of all earlier rows and reads
    part_first = torch.zeros(rows + 1, dtype=torch.int64)
    part_first[1:].index_add_(0, row, splits[read])
    part_first = part_first.cumsum(0)
    part = torch.zeros_like(splits)
    part[read] = before - part_first[row]
    assert torch.equal(part[read], before - part_first[row]), "the reads of a step must nest"
    return part, part_first


def _compacted(reads: PagedReads, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen queries in order, and the reads' ranges among them: still ranges, or empty."""
    before = torch.zeros(len(chosen) + 1, dtype=torch.int64)
    before[1:] = chosen.cumsum(0)
    starts, ends = before[reads.table[:, QUERY_START]], before[reads.table[:, QUERY_END]]
    return chosen.nonzero().flatten(), starts, ends


def _pairs(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Every (range, member) of these half-open ranges, range by range."""
    counts = ends - starts
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner)) - first[owner] + starts[owner]


def _sent(table: Tensor, device: torch.device) -> Tensor:
    return table.to(torch.int32).to(device, non_blocking=True)
