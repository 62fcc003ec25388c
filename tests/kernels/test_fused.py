"""The fused kernels against the specification; Triton's interpreter stands in for a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged_steps import Node, Step, step_of, steps
from test_attention import STEPS
from torch import Tensor

from batchpipe.kernels import reference
from batchpipe.kernels.paged import PagedReads, paged_reads, reads_of
from batchpipe.kernels.reference import Variant
from batchpipe.kernels.tuned import Tile, Tuning
from batchpipe.kernels.work import Grid, Work, lay_out

pytest.importorskip("triton", reason="the kernels are Triton's: pip install 'batchpipe[test]'")

from batchpipe.kernels import fused

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Outputs are means of unit normals: rounding of about one. Weights and outputs of 8 or 11 bits.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

# Small tiles, so that short contexts have many blocks, splits and crossings.
SMALL = Tuning(
    prefill=Tile(32, 16, warps=4, stages=1),
    single=Tile(16, 16, warps=4, stages=1),
    low=Tile(16, 16, warps=4, stages=1),
    tall=Tile(32, 16, warps=4, stages=1),
    least_chunk=8,
    least_sharing=0.0,
    programs_per_processor=1,
    least_split_keys=32,
    measured="chosen for tests",
)
TUNINGS = {
    "split": replace(SMALL, least_sharing=0.0, programs_per_processor=100),
    "unsplit": replace(SMALL, least_split_keys=2**20),
    "unshared": replace(SMALL, least_sharing=1e9, programs_per_processor=0),
    "all-tiles": replace(SMALL, least_chunk=1),
    "all-split": replace(SMALL, least_chunk=2**20, programs_per_processor=100),
}


@dataclass(frozen=True)
class Heads:
    query: int
    kv: int
    size: int
    value_size: int

    def grid(self) -> Grid:
        return Grid(self.query // self.kv, self.kv, processors=1)


@st.composite
def heads(draw: st.DrawFn) -> Heads:
    kv = draw(st.sampled_from([1, 1, 2]))
    size = draw(st.sampled_from([16, 60, 60, 64, 80, 96, 128, 256]))
    value_size = draw(st.sampled_from([size, size, size, 24]))
    return Heads(kv * draw(st.sampled_from([1, 2, 3, 4, 7])), kv, size, value_size)


@dataclass(frozen=True)
class Case:
    """A step's tensors, with NaN in every slot that nothing has written."""

    query: Tensor
    key: Tensor
    value: Tensor
    key_cache: Tensor
    value_cache: Tensor
    sinks: Tensor


def case(step: Step, heads: Heads, dtype: torch.dtype) -> Case:
    draw = torch.Generator().manual_seed(step.slots)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    count = len(step.positions)
    caches = [
        torch.full((step.slots, heads.kv, size), float("nan"), dtype=dtype)
        for size in (heads.size, heads.value_size)
    ]
    for read in step.spec():
        for cache in caches:
            cache[read.slots] = random(len(read.slots), *cache.shape[1:])
    return Case(
        random(heads.query, count, heads.size).transpose(0, 1),
        random(heads.kv, count, heads.size).transpose(0, 1),
        random(heads.kv, count, heads.value_size).transpose(0, 1),
        *caches,
        sinks=2 * random(heads.query),
    )


def run(step: Step, case: Case, work: Work, variant: Variant, sinks: Tensor | None) -> Tensor:
    """The fused output on the device, back on the host; the caches are written there too."""
    caches = [cache.to(DEVICE, copy=True) for cache in (case.key_cache, case.value_cache)]
    output = fused.attend(
        *(tensor.to(DEVICE) for tensor in (case.query, case.key, case.value)),
        *caches,
        torch.tensor(step.positions, device=DEVICE),
        torch.tensor(step.write_slots, device=DEVICE),
        work,
        variant,
        None if sinks is None else sinks.to(DEVICE),
    )
    case.key_cache.copy_(caches[0])
    case.value_cache.copy_(caches[1])
    return output.cpu()


def compare(
    step: Step,
    heads: Heads,
    variant: Variant,
    dtype: torch.dtype,
    tuning: Tuning,
    *,
    page_tokens: int = 16,
    with_sinks: bool = False,
) -> None:
    """The step by the kernels is that of the specification."""
    made = case(step, heads, dtype)
    sinks = made.sinks if with_sinks else None
    work = lay_out(step.paged(page_tokens, DEVICE), len(step.positions), heads.grid(), tuning)
    before = made.key_cache.clone(), made.value_cache.clone()
    slots = torch.tensor(step.write_slots)
    reference.store(made.key, made.value, *before, slots)
    found = run(step, made, work, variant, sinks)
    assert found.dtype == dtype
    for cache, stored in zip((made.key_cache, made.value_cache), before, strict=True):
        torch.testing.assert_close(cache, stored, rtol=0, atol=0, equal_nan=True)
    positions = torch.tensor(step.positions)
    expected = reference.attend(made.query, *before, positions, step.spec(), variant, sinks)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=TOLERANCE[dtype])


DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@settings(max_examples=12, derandomize=True)
@given(
    step=steps,
    heads=heads(),
    dtype=DTYPES,
    tuning=st.sampled_from(sorted(TUNINGS)),
    window=st.sampled_from([None, None, 1, 17, 64, 150]),
    softcap=st.sampled_from([None, None, 2.0, 30.0]),
    with_sinks=st.booleans(),
    page_tokens=st.sampled_from([1, 16]),
)
def test_any_step_equals_the_specification(
    step: Step,
    heads: Heads,
    dtype: torch.dtype,
    tuning: str,
    window: int | None,
    softcap: float | None,
    with_sinks: bool,
    page_tokens: int,
) -> None:
    variant = Variant(1 / math.sqrt(heads.size), window, softcap)
    compare(
        step,
        heads,
        variant,
        dtype,
        TUNINGS[tuning],
        page_tokens=page_tokens,
        with_sinks=with_sinks,
    )


# Three levels of odd lengths over decodes, chunks, a node that is computed beside its children,
# and strangers.
MIXED = step_of(
    (
        Node(40, 0, (Node(17, 9, (Node(3, 1), Node(40, 1), Node(5, 2))), Node(2, 20))),
        Node(63, 1),
        Node(0, 63),
    ),
    seed=1,
)
DECODES = step_of((Node(65, 0, tuple(Node(n, 1) for n in range(1, 20))), Node(30, 1)), seed=2)


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("step", [MIXED, DECODES], ids=["mixed", "decodes"])
def test_every_way_to_cut_a_step_gives_the_same(step: Step, tuning: str) -> None:
    compare(step, Heads(4, 2, 60, 60), Variant(0.13), torch.float32, TUNINGS[tuning])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_windows_soft_caps_and_sinks_hold_together(dtype: torch.dtype) -> None:
    variant = Variant(0.125, window=20, softcap=3.0)
    compare(MIXED, Heads(6, 2, 64, 64), variant, dtype, TUNINGS["split"], with_sinks=True)


@pytest.mark.parametrize("size", [60, 80, 96, 128, 256])
def test_any_head_size_is_served(size: int) -> None:
    step = step_of((Node(63, 0, (Node(1, 1), Node(2, 9), Node(17, 1))),), seed=3)
    heads = Heads(3, 1, size, size)
    compare(step, heads, Variant(1 / math.sqrt(size)), torch.bfloat16, TUNINGS["split"])


def test_more_heads_than_a_tile_has_rows_share_their_key_head() -> None:
    step = step_of((Node(20, 0, (Node(1, 1), Node(2, 9))),), seed=4)
    compare(step, Heads(71, 1, 16, 16), Variant(0.25), torch.float32, SMALL)


@pytest.mark.parametrize("magnitude", [0.0, 60.0])
def test_overwhelming_and_equal_scores_stay_exact(magnitude: float) -> None:
    """Sinks far above and below the scores; one key that takes all weight."""
    made = case(DECODES, Heads(2, 1, 16, 16), torch.float32)
    made = replace(made, query=made.query * magnitude, sinks=torch.tensor([-200.0, 200.0]))
    reads = DECODES.paged(16, DEVICE)
    for tuning in TUNINGS.values():
        work = lay_out(reads, len(DECODES.positions), Heads(2, 1, 16, 16).grid(), tuning)
        found = run(DECODES, made, work, Variant(0.25), made.sinks)
        expected = reference.attend(
            made.query,
            made.key_cache,
            made.value_cache,
            torch.tensor(DECODES.positions),
            DECODES.spec(),
            Variant(0.25),
            made.sinks,
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_broken_sequence_breaks_no_other(tuning: str) -> None:
    """NaN in what one sequence alone reads, keys and values, stays with its queries."""
    heads, variant = Heads(2, 1, 16, 16), Variant(0.25)
    made = case(MIXED, heads, torch.float32)
    work = lay_out(MIXED.paged(16, DEVICE), len(MIXED.positions), heads.grid(), TUNINGS[tuning])
    whole = run(MIXED, made, work, variant, None)
    alone = next(read for read in MIXED.spec() if read.query_end - read.query_start == 20)
    spoilt = alone.slots[:2]  # in the past of the chunk, so that the step does not write them
    for cache in (made.key_cache, made.value_cache):
        cache[spoilt] = float("nan")
        found = run(MIXED, made, work, variant, None)
        broken = torch.zeros(len(found), dtype=torch.bool)
        broken[alone.query_start : alone.query_end] = True
        assert found[broken].isnan().all()
        torch.testing.assert_close(found[~broken], whole[~broken], rtol=0, atol=0)
        cache[spoilt] = 1.0


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_real_plans_equal_the_specification(name: str) -> None:
    tuning = replace(SMALL, prefill=Tile(64, 64, warps=4, stages=1), least_sharing=1.5)
    heads, variant = Heads(2, 1, 16, 16), Variant(0.25)
    draw = torch.Generator().manual_seed(0)
    key_cache, value_cache = torch.randn(2, STEPS[name].slots, 1, 16, generator=draw)
    layouts = STEPS[name].layouts
    for layout in (layouts[len(layouts) // 2], layouts[-1]):
        count = len(layout.positions)
        query = torch.randn(count, 2, 16, generator=draw)
        key, value = torch.randn(2, len(layout.write_slots), 1, 16, generator=draw)
        reference.store(key, value, key_cache, value_cache, layout.write_slots)
        found = fused.attend(
            *(tensor.to(DEVICE) for tensor in (query, key, value, key_cache, value_cache)),
            layout.positions.to(DEVICE),
            layout.write_slots.to(DEVICE),
            lay_out(_on_device(reads_of(layout)), count, heads.grid(), tuning),
            variant,
        ).cpu()
        expected = reference.attend(
            query, key_cache, value_cache, layout.positions, layout.reads(), variant
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def _on_device(reads: PagedReads) -> PagedReads:
    return paged_reads(reads.page_tokens, reads.pages, reads.table, DEVICE)
