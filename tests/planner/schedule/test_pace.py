"""How many prompt tokens go into a step beside its decodes."""

from __future__ import annotations

import numpy as np
import pytest
from dry_run import DryRun, ample_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import Jobs, cost_of, jobs, mixed_job, small_cost

from batchpipe.planner.kv_ledger import KVLedger
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.order import CANDIDATES
from batchpipe.planner.planning import Setting, make_plan, pace_of
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.decoding import Decoding
from batchpipe.planner.schedule.pace import Even, Full
from batchpipe.planner.schedule.segment import Segment, Sequence
from batchpipe.planner.schedule.step import step_load
from batchpipe.planner.schedule.token_batcher import TokenBatcher

COST = small_cost(overlap=1.0)


def decoding_of(contexts: list[int]) -> Decoding:
    """Sequences that decode, each with so many keys of its own."""
    decoding = Decoding()
    for index, tokens in enumerate(contexts):
        tail = Segment(-1, 0, index, np.zeros(tokens, dtype=np.int32))
        decoding.join(Sequence(index, tokens, tail))
    return decoding


def even(job: Jobs, step_tokens: int = 2048) -> Even:
    return Even(step_tokens, COST, cost_of(job, COST), [answer for _, answer in job])


contexts = st.lists(st.integers(1, 5000), max_size=60)
every_job = st.one_of(jobs, st.integers(0, 99).map(mixed_job))


@given(contexts, st.integers(1, 500))
def test_full_steps_take_what_decodes_leave(keys: list[int], step_tokens: int) -> None:
    assert Full(step_tokens).prefill_tokens(decoding_of(keys)) == step_tokens - len(keys)
    assert Full(step_tokens).density() is None


@given(every_job, contexts, st.integers(1, 500))
def test_even_steps_never_exceed_the_step(job: Jobs, keys: list[int], step_tokens: int) -> None:
    decoding = decoding_of(keys)
    tokens = even(job, step_tokens).prefill_tokens(decoding)
    assert len(keys) + tokens <= step_tokens


@given(every_job, st.integers(1, 500))
def test_even_step_without_decodes_is_full(job: Jobs, step_tokens: int) -> None:
    assert even(job, step_tokens).prefill_tokens(decoding_of([])) == step_tokens


@given(every_job, contexts)
def test_even_steps_use_what_the_weights_reading_hides(job: Jobs, keys: list[int]) -> None:
    tokens = even(job).prefill_tokens(decoding_of(keys))
    assert len(keys) + tokens >= min(COST.knee_tokens, 2048)


@given(st.integers(0, 99).map(mixed_job), st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_even_step_computes_and_reads_as_all_that_is_left(job: Jobs, keys: list[int]) -> None:
    decoding, pace = decoding_of(keys), even(job, 1 << 40)
    tokens = pace.prefill_tokens(decoding)
    load = step_load(decoding, ())
    computed = len(keys) * COST.head_seconds + (len(keys) + tokens) * COST.token_seconds
    due = cost_of(job, COST).density * load.own_keys * COST.key_seconds
    if len(keys) + tokens > COST.knee_tokens:
        assert due - COST.token_seconds <= computed <= due + 1e-15
    else:
        assert due <= computed + COST.token_seconds


def test_density_follows_what_is_left() -> None:
    job = [([1, 2, 3], 100), ([1, 2, 4], 100)]
    pace, cost = even(job), cost_of(job, COST)
    assert pace.density() == pytest.approx(cost.density)
    pace.passed(StepLoad(100, 0, 1, prefill_tokens=100))
    less = cost.compute_seconds - 100 * COST.token_seconds
    assert pace.density() == pytest.approx(less / cost.memory_seconds)
    pace.passed(StepLoad(2, 0, 2, own_keys=900, shared_keys=9, shared_pairs=100))
    less -= 2 * COST.token_seconds
    assert pace.density() == pytest.approx(less / (cost.memory_seconds - 1000 * COST.key_seconds))


def test_density_is_never_below_nothing() -> None:
    pace = even([([1, 2, 3], 10)])
    pace.passed(StepLoad(10**6, 10**6, 1, own_keys=10**9))
    assert pace.density() == 0


def test_shorter_answers_leave_less_to_read_and_longer_ones_more() -> None:
    job = [([1, 2, 3], 100), ([2, 2, 4], 100)]
    as_expected, shorter, longer = even(job), even(job), even(job)
    as_expected.answered(0, 100)
    shorter.answered(0, 10)
    longer.answered(0, 200)
    assert as_expected.density() == pytest.approx(cost_of(job, COST).density)
    assert shorter.density() > as_expected.density() > longer.density()


class Recorded(Even):
    """An even pace that keeps the loads that it was told of."""

    def __init__(self, step_tokens: int, job: Jobs) -> None:
        super().__init__(step_tokens, COST, cost_of(job, COST), [answer for _, answer in job])
        self.loads: list[StepLoad] = []

    def passed(self, load: StepLoad) -> None:
        super().passed(load)
        self.loads.append(load)


@settings(max_examples=20)
@given(st.integers(0, 999))
def test_steps_add_up_to_the_job_less_a_step_of_each_answer(seed: int) -> None:
    """The prompt draws the first token of an answer, so its d tokens take d - 1 decodes."""
    job = [(row, 1 + answer % 60) for row, answer in mixed_job(seed, 12)]
    samplings = [Sampling(max_tokens=answer, temperature=1, ignore_eos=True) for _, answer in job]
    plan = make_plan(Prompts.pack([row for row, _ in job]), samplings, order="balanced")
    pace = Recorded(100, job)
    batcher = TokenBatcher(plan, KVLedger(ample_blocks(plan)), pace)
    run = DryRun(plan, batcher, [answer for _, answer in job], 100).play()
    rows = sum(load.tokens for load in pace.loads) + len(job)
    drawn = sum(load.drawn for load in pace.loads)
    pairs = sum(load.prefill_pairs for load in pace.loads) - run.prompt_tokens_computed / 2
    computed = rows * COST.token_seconds + drawn * COST.head_seconds + pairs * COST.pair_seconds
    assert computed == pytest.approx(plan.cost(COST).compute_seconds)
    keys = sum(load.own_keys + load.shared_pairs for load in pace.loads)
    keys_of_last_steps = sum(len(row) + answer / 2 for row, answer in job)
    read = (keys + keys_of_last_steps) * COST.key_seconds
    assert read == pytest.approx(plan.cost(COST).memory_seconds)


@pytest.mark.parametrize("policy", CANDIDATES)
def test_orders_read_from_both_ends_are_paced_evenly(policy: str) -> None:
    job = mixed_job(1, 30)
    samplings = [Sampling(max_tokens=answer, ignore_eos=True) for _, answer in job]
    plan = make_plan(Prompts.pack([row for row, _ in job]), samplings, order=policy)
    pace = pace_of(plan, Setting(COST, 100, 64))
    assert isinstance(pace, Even if policy.startswith("balanced") else Full)
