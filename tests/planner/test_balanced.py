"""Orders read from both ends at an even pace; `dry_run` checks every step of them."""

from __future__ import annotations

import numpy as np
import pytest
from dry_run import DryRun, alone_blocks, ample_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import mixed_job, small_setting
from test_token_batcher import plans

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan, pace_of
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Even
from batchpipe.planner.schedule.token_batcher import TokenBatcher

Planned = tuple[Plan, list[int]]

names = ("balanced", "balanced-2", "balanced-3")
both_ends = st.sampled_from(names).flatmap(plans)


def run_of(
    plan: Plan, answers: list[int], kv_blocks: int, step_tokens: int, seen: tuple[int, ...] = ()
) -> DryRun:
    pace = pace_of(plan, small_setting(kv_blocks, step_tokens, overlap=1.0))
    assert isinstance(pace, Even)
    batcher = TokenBatcher(plan, KVLedger(kv_blocks), pace)
    for length in seen:
        batcher.lengths.add(0, length)
    return DryRun(plan, batcher, answers, step_tokens)


# ---- every plan, every memory -------------------------------------------------------------------


@settings(max_examples=150)
@given(
    both_ends,
    st.integers(0, 12),
    st.integers(1, 200),
    st.sampled_from([(), (1,) * 20, (5,) * 3]),
)
def test_tight_memory_answers_every_prompt_once(
    planned: Planned, spare_blocks: int, step_tokens: int, seen: tuple[int, ...]
) -> None:
    plan, answers = planned
    tight = max(alone_blocks(plan)) + spare_blocks
    run = run_of(plan, answers, tight, step_tokens, seen).play()
    assert run.batcher.counts.peak_kv_tokens <= tight * BLOCK_TOKENS


@settings(max_examples=60)
@given(both_ends, st.integers(1, 200))
def test_ample_memory_computes_each_shared_token_once(planned: Planned, step_tokens: int) -> None:
    plan, answers = planned
    run = run_of(plan, answers, ample_blocks(plan), step_tokens).play()
    counts, tree = run.batcher.counts, plan.tree
    assert counts.computed_prompt_tokens == tree.computed_tokens
    assert run.node_tokens_computed == dict(enumerate((tree.end - tree.start).tolist()))
    assert (counts.preemptions, counts.evicted_tokens) == (0, 0)


@settings(max_examples=30)
@given(both_ends, st.integers(0, 6), st.integers(1, 100))
def test_steps_are_the_same_for_the_same_plan(
    planned: Planned, spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    kv_blocks = max(alone_blocks(plan)) + spare_blocks

    def steps() -> list[list[tuple[int, int, int, int]]]:
        return [
            [(c.segment.rank, c.segment.position, c.start, c.end) for c in chunks]
            for chunks in run_of(plan, answers, kv_blocks, step_tokens).steps()
        ]

    assert steps() == steps()


# ---- both ends --------------------------------------------------------------------------------


def two_kinds(order: str) -> tuple[Plan, list[int]]:
    """40 prompts with long answers and 160 longer prompts with short ones, which share nothing."""
    rng = np.random.default_rng(5)
    answers = [300] * 40 + [2] * 160
    rows = [rng.integers(0, 99, 10 if answer > 2 else 60).tolist() for answer in answers]
    samplings = [Sampling(max_tokens=answer, ignore_eos=True) for answer in answers]
    return make_plan(Prompts.pack(rows), samplings, order=order), answers


@pytest.mark.parametrize("name", names)
def test_long_answers_run_beside_prompts_nearly_to_the_end(name: str) -> None:
    plan, answers = two_kinds(name)
    run = run_of(plan, answers, 300, 200)
    beside = [
        (len(run.batcher.decoding), sum(c.end - c.start for c in chunks)) for chunks in run.steps()
    ]
    prefilling = [step for step, (decodes, tokens) in enumerate(beside) if tokens > decodes]
    assert max(prefilling) > 0.5 * len(beside)
    assert run.batcher.counts.preemptions == 0


@pytest.mark.parametrize("name", names)
def test_both_ends_are_under_way_from_the_start(name: str) -> None:
    plan, answers = two_kinds(name)
    run = run_of(plan, answers, 300, 200)
    first = next(iter(run.steps()))
    began = {answers[c.sequence.index] for c in first if c.sequence is not None}
    assert began == {300, 2}


@pytest.mark.parametrize("name", names)
@pytest.mark.parametrize("seed", range(2))
def test_exact_lengths_are_not_preempted_at_a_whole_step(name: str, seed: int) -> None:
    job = [(row, 1 + answer % 120) for row, answer in mixed_job(seed, 60)]
    samplings = [Sampling(max_tokens=answer, ignore_eos=True) for _, answer in job]
    plan = make_plan(Prompts.pack([row for row, _ in job]), samplings, order=name)
    answers = plan.output_tokens.tolist()
    run = run_of(plan, answers, max(alone_blocks(plan)) + 10, 10_000).play()
    assert run.batcher.counts.preemptions == 0
