"""How a step is cut into programs: everything is read, nothing twice, shared keys once."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_steps import Node, Step, step_of, steps
from test_attention import STEPS

from batchpipe.kernels.paged import KEYS, POSITION, QUERY_END, QUERY_START, reads_of
from batchpipe.kernels.tuned import TUNED, Tile, Tuning, tuning_for
from batchpipe.kernels.work import Grid, Work, lay_out, sharing_degree

CPU = torch.device("cpu")
TILE = Tile(32, 16, warps=4, stages=1)
SINGLE = Tile(16, 16, warps=4, stages=1)


def tuning(
    *, chunk: int = 8, sharing: float = 1.5, programs: int = 4, split_keys: int = 32
) -> Tuning:
    return Tuning(TILE, SINGLE, SINGLE, TILE, programs, chunk, sharing, split_keys, "for tests")


TUNINGS = st.builds(
    tuning,
    chunk=st.sampled_from([1, 8, 1000]),
    sharing=st.sampled_from([0.0, 1.5, 1e9]),
    programs=st.sampled_from([1, 4, 1000]),
    split_keys=st.sampled_from([16, 64, 2**20]),
)
GRIDS = st.builds(
    Grid, group=st.sampled_from([1, 3, 4, 40]), kv_heads=st.just(2), processors=st.just(3)
)


def walked(work: Work) -> list[tuple[int, int, int]]:
    """(query, read, key) of everything that the programs attend to, causality aside."""
    table = work.reads.table
    seen = []
    for tiled in work.tiled:
        for row_start, row_end, list_start, list_end in tiled.tiles.tolist():
            for read in tiled.tile_reads[list_start:list_end].tolist():
                covered = range(int(table[read, QUERY_START]), int(table[read, QUERY_END]))
                queries = set(tiled.rows[row_start:row_end].tolist()) & set(covered)
                assert queries, "a tile walks a read of none of its queries"
                seen += [(q, read, k) for q in queries for k in range(int(table[read, KEYS]))]
    if work.split is not None:
        for read, row_start, row_end, start, end, _ in work.split.tasks.tolist():
            queries = work.split.rows[row_start:row_end].tolist()
            seen += [(q, read, k) for q in queries for k in range(start, end)]
    return seen


@settings(max_examples=40)
@given(step=steps, tuning=TUNINGS, grid=GRIDS)
def test_every_query_attends_to_every_key_of_its_reads_once(
    step: Step, tuning: Tuning, grid: Grid
) -> None:
    work = lay_out(step.paged(16, CPU), len(step.positions), grid, tuning)
    expected = [
        (query, read, key)
        for read, row in enumerate(work.reads.table.tolist())
        for query in range(row[QUERY_START], row[QUERY_END])
        for key in range(row[KEYS])
    ]
    assert Counter(walked(work)) == Counter(expected)


@settings(max_examples=40)
@given(step=steps, tuning=TUNINGS, grid=GRIDS)
def test_every_part_has_a_place_of_its_own(step: Step, tuning: Tuning, grid: Grid) -> None:
    work = lay_out(step.paged(16, CPU), len(step.positions), grid, tuning).split
    if work is None:
        return
    first = work.part_first.tolist()
    places = [
        (row, first[row] + part)
        for _, row_start, row_end, _, _, part in work.tasks.tolist()
        for row in range(row_start, row_end)
    ]
    assert sorted(place for _, place in places) == list(range(work.parts))
    assert all(first[row] <= place < first[row + 1] for row, place in places)


@settings(max_examples=40)
@given(step=steps, tuning=TUNINGS, grid=GRIDS)
def test_each_query_is_in_one_work_and_fits_its_tile(
    step: Step, tuning: Tuning, grid: Grid
) -> None:
    work = lay_out(step.paged(16, CPU), len(step.positions), grid, tuning)
    rows = [row for tiled in work.tiled for row in tiled.rows.tolist()]
    for tiled in work.tiled:
        height = tiled.tiles[:, 1] - tiled.tiles[:, 0]
        assert 1 <= int(height.min()) <= int(height.max()) <= tiled.tile.rows // grid.group
    if work.split is not None:
        rows += work.split.rows.tolist()
        height = work.split.tasks[:, 2] - work.split.tasks[:, 1]
        assert 1 <= int(height.min()) <= int(height.max()) <= work.split.tall.rows // grid.group
        assert grid.group <= work.split.low.rows
    assert sorted(rows) == list(range(len(step.positions)))


def test_shared_keys_are_read_once_for_all_decodes_below() -> None:
    below = tuple(Node(3, 1) for _ in range(8))
    step = step_of((Node(2000, 0, (Node(100, 0, below), Node(50, 0, below))),), seed=0)
    work = lay_out(step.paged(16, CPU), 16, Grid(2, 1, 1), tuning()).split
    assert work is not None
    keys_read = int((work.tasks[:, 4] - work.tasks[:, 3]).sum())
    assert keys_read == 2000 + 100 + 50 + 16 * 4


def test_long_contexts_are_split_until_the_processors_are_busy() -> None:
    step = step_of((Node(10_000, 1),), seed=0)
    reads, choice = step.paged(16, CPU), tuning(sharing=0.0, programs=2, split_keys=128)
    many = lay_out(reads, 1, Grid(4, 2, processors=20), choice).split
    few = lay_out(reads, 1, Grid(4, 2, processors=1), choice).split
    assert many is not None
    assert few is not None
    assert 20 <= len(many.tasks) * 2 <= 2 * 2 * 20
    assert len(few.tasks) == 1
    assert int((many.tasks[:, 4] - many.tasks[:, 3]).min()) > 0


def test_decodes_that_hardly_share_get_a_tile_each() -> None:
    strangers = step_of(tuple(Node(40, 1) for _ in range(30)), seed=0).paged(16, CPU)
    family = step_of((Node(200, 0, tuple(Node(5, 1) for _ in range(30))),), seed=0).paged(16, CPU)
    decoding = torch.ones(30, dtype=torch.bool)
    assert sharing_degree(strangers, decoding) == 1
    assert sharing_degree(family, decoding) > 10
    grid = Grid(4, 2, processors=4)
    apart, together = (lay_out(reads, 30, grid, tuning()) for reads in (strangers, family))
    assert apart.split is None
    assert [tiled.tile for tiled in apart.tiled] == [SINGLE]
    assert together.split is not None
    few = lay_out(strangers, 30, Grid(4, 2, processors=1000), tuning())
    assert few.split is not None  # too few programs: their contexts are split


@pytest.mark.parametrize("name", STEPS)
def test_paged_reads_say_what_the_layout_says(name: str) -> None:
    for layout in STEPS[name].layouts:
        paged = reads_of(layout)
        assert paged.page_tokens == 1
        found = [
            (row[QUERY_START], row[QUERY_END], row[POSITION], tuple(slots))
            for row in paged.table.tolist()
            for slots in [paged.pages[row[0] : row[0] + row[KEYS]].tolist()]
        ]
        expected = [
            (read.query_start, read.query_end, read.position, tuple(read.slots.tolist()))
            for read in layout.reads()
        ]
        assert sorted(found) == sorted(expected)
        widest_first = [(start, -end) for start, end, *_ in found]
        assert widest_first == sorted(widest_first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("head_dim", [16, 60, 64, 80, 128, 200, 256])
def test_every_device_and_head_size_has_a_tuning(
    head_dim: int, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    found = tuning_for(capability, head_dim, dtype)
    for tile in (found.prefill, found.single, found.low, found.tall):
        assert tile.keys >= 16
        assert tile.rows >= 16


def test_tuned_tiles_are_powers_of_two_and_say_where_they_were_measured() -> None:
    for sizes in TUNED.values():
        for choice in sizes.values():
            tiles = (choice.prefill, choice.single, choice.low, choice.tall)
            assert all((n & (n - 1)) == 0 for tile in tiles for n in (tile.rows, tile.keys))
            assert choice.low.rows <= choice.tall.rows
            assert choice.measured
