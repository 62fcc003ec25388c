"""Seconds of steps and jobs, against numbers worked out by hand and against plain sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import SMALL_MODEL, Jobs, cost_of, jobs, small_cost, tree_of

from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad

LAYER_PARAMETERS = 4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 14336
LLAMA_8B = ModelShape(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab=128256,
    context=131072,
    linear_parameters=32 * LAYER_PARAMETERS,
    expert_parameters=0,
    experts=0,
    experts_per_token=0,
    head_parameters=128256 * 4096,
    tied_head=False,
    windows=(0,) * 32,
)
# 8 experts of 4M parameters beside 1M that every token meets; a token goes through two.
MIXTURE = replace(
    SMALL_MODEL,
    linear_parameters=1_000_000,
    expert_parameters=32_000_000,
    experts=8,
    experts_per_token=2,
)
A100 = MACHINES["a100-80g"]
LLAMA = StepCost(LLAMA_8B, A100, "bfloat16")

counts = st.integers(0, 5000)


def decode_load(decodes: int, keys_each: int) -> StepLoad:
    return StepLoad(decodes, decodes, decodes, own_keys=decodes * keys_each)


# ---- rates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "milliseconds"), [(512, 1.038), (768, 1.494), (1024, 1.916)])
def test_linear_layers_take_what_blendserve_estimates(batch: int, milliseconds: float) -> None:
    """BlendServe's Table 1 is of one layer: Llama-3-8B on an A100."""
    load = decode_load(batch, 1024)
    head = batch * LLAMA.head_seconds
    layer_seconds = (LLAMA.linear_seconds(load) - head) / LLAMA_8B.layers
    assert 1e3 * layer_seconds == pytest.approx(milliseconds, rel=0.1)


@pytest.mark.parametrize(("batch", "milliseconds"), [(512, 1.239), (768, 1.859), (1024, 2.478)])
def test_attention_of_decodes_takes_what_blendserve_estimates(
    batch: int, milliseconds: float
) -> None:
    layer_seconds = LLAMA.memory_seconds(decode_load(batch, 1024)) / LLAMA_8B.layers
    assert 1e3 * layer_seconds == pytest.approx(milliseconds, rel=0.01)


def test_rates_are_those_worked_out_by_hand() -> None:
    flops, bandwidth = 0.75 * 312e12, 0.85 * 2.039e12
    assert LLAMA.token_seconds == pytest.approx(2 * 6_979_321_856 / flops)
    assert LLAMA.head_seconds == pytest.approx(2 * 525_336_576 / flops)
    assert LLAMA.key_seconds == pytest.approx(131_072 / bandwidth)  # 128 KiB a token
    assert LLAMA.pair_seconds == pytest.approx(4 * 4096 * 32 / (flops / 2))
    assert LLAMA.weights_seconds(1) == pytest.approx(2 * 6_979_321_856 / bandwidth)
    assert LLAMA.knee_tokens == 135  # 234 TFLOP/s over 1.733 TB/s, at one FLOP a byte
    assert LLAMA.fixed_seconds == pytest.approx(3e-4 + 32 * 5e-6)


def test_steps_of_plenty_tokens_cost_hardly_more_a_token_than_longer_ones() -> None:
    plenty = LLAMA.plenty_tokens
    assert plenty >= LLAMA.knee_tokens
    few, many = (
        LLAMA.seconds(StepLoad(tokens=rows, drawn=0, sequences=0)) / rows
        for rows in (plenty, 100 * plenty)
    )
    assert few == pytest.approx(many, rel=0.06)


def test_wider_numbers_are_computed_and_read_more_slowly() -> None:
    wide = StepCost(LLAMA_8B, A100, "float32")
    assert wide.key_seconds == pytest.approx(2 * LLAMA.key_seconds)
    assert wide.weights_seconds(1) == pytest.approx(2 * LLAMA.weights_seconds(1))
    assert wide.token_seconds == pytest.approx(LLAMA.token_seconds * 312 / 19.5)
    assert wide.pair_seconds == pytest.approx(LLAMA.pair_seconds * 312 / 19.5)


def test_fewer_bytes_of_weights_are_read_and_all_else_costs_the_same() -> None:
    packed = StepCost(replace(LLAMA_8B, quantize="int8"), A100, "bfloat16")
    assert packed.weights_seconds(1) == pytest.approx(LLAMA.weights_seconds(1) / 2)
    for name in ("token_seconds", "head_seconds", "key_seconds", "pair_seconds", "fixed_seconds"):
        assert getattr(packed, name) == getattr(LLAMA, name)
    few, many = decode_load(8, 9), decode_load(4096, 9)
    assert packed.seconds(few) < LLAMA.seconds(few)
    assert packed.seconds(many) == LLAMA.seconds(many)


# ---- a step -----------------------------------------------------------------------------------


def test_step_adds_up_to_the_numbers_worked_out_by_hand() -> None:
    load = StepLoad(
        tokens=1100,
        drawn=101,
        sequences=102,
        own_keys=50_000,
        shared_keys=3000,
        shared_pairs=200_000,
        prefill_tokens=1000,
        prefill_pairs=500_500,
    )
    linear = 1100 * LLAMA.token_seconds
    head = 2 * LLAMA_8B.head_parameters / (0.85 * 2.039e12)  # 101 rows are below the knee
    pairs = 700_500 * LLAMA.pair_seconds
    assert LLAMA.compute_seconds(load) == pytest.approx(linear + head + pairs)
    assert LLAMA.memory_seconds(load) == pytest.approx(53_000 * LLAMA.key_seconds)
    fixed = LLAMA.fixed_seconds + 102 * 5e-6
    assert LLAMA.seconds(load) == pytest.approx(
        fixed + linear + head + pairs + 53_000 * LLAMA.key_seconds
    )


def test_few_rows_cost_the_reading_of_the_weights() -> None:
    one, many = (LLAMA.linear_seconds(decode_load(rows, 9)) for rows in (1, LLAMA.knee_tokens))
    assert one == many
    assert LLAMA.linear_seconds(decode_load(400, 9)) > 2 * one
    assert LLAMA.linear_seconds(StepLoad(64, 0, 1, prefill_tokens=64)) == LLAMA.weights_seconds(64)


@given(st.lists(st.tuples(counts, counts), min_size=7, max_size=7), st.sampled_from([0, 0.5, 1]))
def test_more_load_never_takes_less_time(pairs: list[tuple[int, int]], overlap: float) -> None:
    cost = small_cost(overlap)
    less, more = [], []
    for given_less, further in pairs:
        less.append(given_less)
        more.append(given_less + further)
    loads = [
        StepLoad(
            1 + decodes + chunks, drawn, decodes, own, shared, shared + pairs, chunks, 9 * chunks
        )
        for decodes, chunks, drawn, own, shared, pairs, _ in (less, more)
    ]
    assert cost.seconds(loads[0]) <= cost.seconds(loads[1])
    assert cost.compute_seconds(loads[0]) <= cost.compute_seconds(loads[1])
    assert cost.memory_seconds(loads[0]) <= cost.memory_seconds(loads[1])


@given(counts, counts, st.integers(0, 2000))
def test_overlap_goes_from_the_sum_to_the_longer(decodes: int, keys: int, chunk: int) -> None:
    load = StepLoad(
        decodes + chunk, decodes, decodes + 1, decodes * keys, 0, 0, chunk, chunk * (chunk + 1) // 2
    )
    none, half, whole = (small_cost(overlap) for overlap in (0.0, 0.5, 1.0))
    compute, memory = none.compute_seconds(load), none.memory_seconds(load)
    fixed = none.overhead_seconds(load)
    assert none.seconds(load) == pytest.approx(fixed + compute + memory)
    assert whole.seconds(load) == pytest.approx(fixed + max(compute, memory))
    middle = (none.seconds(load) + whole.seconds(load)) / 2
    assert half.seconds(load) == pytest.approx(middle)


def test_few_tokens_read_few_experts() -> None:
    cost = small_cost(shape=MIXTURE)
    byte_seconds = 2 / A100.weight_bytes_per_second
    assert cost.weights_seconds(1) == pytest.approx((1e6 + 32e6 * 2 / 8) * byte_seconds)
    assert cost.weights_seconds(2) == pytest.approx((1e6 + 32e6 * 7 / 16) * byte_seconds)
    assert cost.weights_seconds(10_000) == pytest.approx(33e6 * byte_seconds)
    assert cost.token_seconds == pytest.approx(2 * 9e6 / A100.matmul_flops)
    assert cost.knee_tokens > 3 * LLAMA.knee_tokens  # 33M parameters read, 9M computed with


def test_windows_read_fewer_keys() -> None:
    all_keys = small_cost()
    cost = small_cost(shape=replace(SMALL_MODEL, windows=(100, 0)))  # one layer of two slides
    near, far = decode_load(10, 80), decode_load(10, 1000)
    assert cost.memory_seconds(near) == all_keys.memory_seconds(near)
    assert cost.memory_seconds(far) == pytest.approx(0.55 * all_keys.memory_seconds(far))
    prefill = StepLoad(1, 0, 1, prefill_tokens=1, prefill_pairs=1000)
    pairs = cost.compute_seconds(prefill) - cost.linear_seconds(prefill)
    assert pairs == pytest.approx(550 * cost.pair_seconds)


def test_keys_that_all_decodes_share_are_read_once_and_computed_with_by_each() -> None:
    shared = StepLoad(10, 10, 10, own_keys=100, shared_keys=1000, shared_pairs=10_000)
    alone = StepLoad(10, 10, 10, own_keys=10_100)
    assert LLAMA.memory_seconds(shared) == pytest.approx(1100 * LLAMA.key_seconds)
    assert LLAMA.memory_seconds(alone) == pytest.approx(10_100 * LLAMA.key_seconds)
    more = LLAMA.compute_seconds(shared) - LLAMA.compute_seconds(alone)
    assert more == pytest.approx(10_000 * LLAMA.pair_seconds)


# ---- a job ------------------------------------------------------------------------------------


def test_bound_of_a_job_is_the_longer_of_computing_and_reading() -> None:
    """Two prompts of four tokens, three of them shared, with answers of 10 and 20 tokens."""
    cost = small_cost()
    job = cost_of([([1, 2, 3, 4], 10), ([1, 2, 3, 5], 20)], cost)
    computed = (3 + 2 + 30) * cost.token_seconds + 30 * cost.head_seconds
    computed += (4.5 + 2 * 3.5) * cost.pair_seconds  # half a pair less than each token has
    read = (4 * 10 + 50 + 4 * 20 + 200) * cost.key_seconds
    assert job.compute_seconds == pytest.approx(computed)
    assert job.memory_seconds == pytest.approx(read)
    assert job.bound_seconds == pytest.approx(max(computed, read))
    assert job.density == pytest.approx(computed / read)


@given(jobs)
def test_saved_reads_are_those_of_all_prompts_decoding_together(job: Jobs) -> None:
    tree, cost = tree_of(job), small_cost()
    saved_keys = 0
    for node in range(len(tree.parent)):
        answers = [job[p][1] for p in tree.order[tree.first[node] : tree.last[node]]]
        for step in range(max(answers)):
            readers = sum(answer > step for answer in answers)
            saved_keys += (readers - 1) * int(tree.end[node] - tree.start[node])
    found = cost_of(job, cost)
    assert found.saved_seconds == pytest.approx(saved_keys * cost.key_seconds)
    assert 0 <= found.saved_seconds <= found.memory_seconds


@given(jobs, st.integers(0, 999))
def test_cost_of_some_prompts_and_of_the_others_is_that_of_all(job: Jobs, seed: int) -> None:
    if not job:
        return
    some, whole = np.random.default_rng(seed).random(len(job)) < 0.5, cost_of(job)
    parts = [whole.of(some), whole.of(~some)]
    assert sum(part.compute_seconds for part in parts) == pytest.approx(whole.compute_seconds)
    assert sum(part.memory_seconds for part in parts) == pytest.approx(whole.memory_seconds)


def test_job_of_nothing_costs_nothing() -> None:
    nothing = cost_of([], small_cost())
    assert (nothing.compute_seconds, nothing.memory_seconds, nothing.bound_seconds) == (0, 0, 0)
