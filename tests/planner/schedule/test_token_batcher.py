"""Steps of whole plans, played without a model; `dry_run` checks every step of them."""

from __future__ import annotations

import numpy as np
import pytest
from dry_run import DryRun, alone_blocks, ample_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import FAST_LINK

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import POLICIES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.token_batcher import TokenBatcher

thoroughly = settings(max_examples=150)

orders = st.sampled_from(sorted(POLICIES))
STEM_TOKENS = 90


@st.composite
def plans(draw: st.DrawFn, order: str | None = None) -> tuple[Plan, list[int]]:
    """A plan whose prompts follow one of two stems for a while, and a length for each answer."""
    stems = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, (2, STEM_TOKENS))
    own_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=40)
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(0, STEM_TOKENS), own_tokens),
            min_size=1,
            max_size=14,
        )
    )
    samplings = [
        Sampling(
            max_tokens=draw(st.integers(1, 50)),
            temperature=draw(st.sampled_from([0.0, 1.0])),
            n=draw(st.sampled_from([1, 1, 1, 2, 3])),
            ignore_eos=draw(st.booleans()),
        )
        for _ in rows
    ]
    prompts = Prompts.pack([[*stems[s, :cut].tolist(), *own] for s, cut, own in rows])
    plan = make_plan(prompts, samplings, order=order or draw(orders))
    answers = [
        s.max_tokens if s.ignore_eos else draw(st.integers(1, s.max_tokens)) for s in plan.samplings
    ]
    return plan, answers


def run_of(
    plan: Plan,
    answers: list[int],
    kv_blocks: int,
    step_tokens: int,
    seen: list[int] | None = None,
    host_blocks: int = 0,
    swap_by: StepCost = FAST_LINK,
) -> DryRun:
    host = KVLedger(host_blocks) if host_blocks else None
    batcher = TokenBatcher(plan, KVLedger(kv_blocks), Full(step_tokens), host=host, swap_by=swap_by)
    for length in seen or []:
        batcher.lengths.add(0, length)
    return DryRun(plan, batcher, answers, step_tokens, host=host)


# ---- every plan, every memory ---------------------------------------------------------------


@thoroughly
@given(plans(), st.integers(0, 12), st.integers(1, 200), st.sampled_from([0, 1, 5]))
def test_tight_memory_answers_every_prompt_once(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int, optimism: int
) -> None:
    plan, answers = planned
    seen = [1] * 20 if optimism == 1 else [optimism] * 3 if optimism else None
    tight = max(alone_blocks(plan)) + spare_blocks
    run = run_of(plan, answers, tight, step_tokens, seen).play()
    assert run.batcher.counts.peak_kv_tokens <= tight * BLOCK_TOKENS


@thoroughly
@given(plans(), st.integers(1, 200))
def test_ample_memory_computes_each_shared_token_once(
    planned: tuple[Plan, list[int]], step_tokens: int
) -> None:
    plan, answers = planned
    run = run_of(plan, answers, ample_blocks(plan), step_tokens).play()
    counts, tree = run.batcher.counts, plan.tree
    assert counts.computed_prompt_tokens == tree.computed_tokens
    assert run.node_tokens_computed == dict(enumerate((tree.end - tree.start).tolist()))
    assert (counts.preemptions, counts.evicted_tokens) == (0, 0)


@settings(max_examples=50)
@given(plans(), st.integers(0, 6), st.integers(1, 100))
def test_steps_are_the_same_for_the_same_plan(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    kv_blocks = max(alone_blocks(plan)) + spare_blocks

    def steps() -> list[list[tuple[int, int, int, int]]]:
        return [
            [(c.segment.rank, c.segment.position, c.start, c.end) for c in chunks]
            for chunks in run_of(plan, answers, kv_blocks, step_tokens).steps()
        ]

    assert steps() == steps()


# ---- single promises ------------------------------------------------------------------------


def test_prompt_and_its_shared_prefix_are_computed_in_one_step() -> None:
    prompts = Prompts.pack([[1] * 40 + [2, 3], [1] * 40 + [4, 5]])
    plan = make_plan(prompts, [Sampling(max_tokens=2, ignore_eos=True)] * 2)
    steps = [
        [(c.segment.node, c.end - c.start) for c in chunks]
        for chunks in run_of(plan, [2, 2], 20, step_tokens=100).steps()
    ]
    assert steps == [[(0, 40), (-1, 2), (-1, 2)], [(-1, 1), (-1, 1)]]


def test_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    prompts = Prompts.pack([[1] * 4, [2] * 50])
    samplings = [Sampling(max_tokens=9, ignore_eos=True), Sampling(max_tokens=1, ignore_eos=True)]
    plan = make_plan(prompts, samplings)
    steps = [
        [c.end - c.start for c in chunks]
        for chunks in run_of(plan, [9, 1], 20, step_tokens=16).steps()
    ]
    assert steps[:4] == [[4, 12], [1, 15], [1, 15], [1, 8]]
    assert len(steps) == 9


def test_more_decodes_than_the_step_holds_all_advance() -> None:
    prompts = Prompts.pack([[1, place] for place in range(20)])
    plan = make_plan(prompts, [Sampling(max_tokens=60, ignore_eos=True)] * 20)
    widest = max(
        sum(c.end - c.start for c in chunks)
        for chunks in run_of(plan, [60] * 20, ample_blocks(plan), step_tokens=3).steps()
    )
    # Three new sequences a step until three decode; from there on decodes alone fill the step.
    assert widest == 3


def test_optimistic_lengths_preempt_and_lose_nothing() -> None:
    prompts = Prompts.pack([[1] * 16 + [place] for place in range(2, 12)])
    plan = make_plan(prompts, [Sampling(max_tokens=100)] * 10)
    kv_blocks = max(alone_blocks(plan)) + 4
    run = run_of(plan, [100] * 10, kv_blocks, 64, seen=[1] * 50).play()
    assert run.batcher.counts.preemptions > 0
    assert len(run.answers) == 10


def test_exact_lengths_are_never_preempted_where_prefill_is_immediate() -> None:
    rng = np.random.default_rng(3)
    rows = [[1] * 16 + [place, *rng.integers(0, 9, place).tolist()] for place in range(2, 40)]
    lengths = rng.integers(1, 100, len(rows)).tolist()
    samplings = [Sampling(max_tokens=length, ignore_eos=True) for length in lengths]
    for order in POLICIES:
        plan = make_plan(Prompts.pack(rows), samplings, order=order)
        run = run_of(plan, lengths, max(alone_blocks(plan)) + 10, 10_000).play()
        assert run.batcher.counts.preemptions == 0


def test_many_preempted_at_once_are_no_deep_recursion() -> None:
    prompts = Prompts.pack([[place, 1] for place in range(1500)])
    plan = make_plan(prompts, [Sampling(max_tokens=40)] * 1500)
    run = run_of(plan, [40] * 1500, 1500, 4000, seen=[1] * 50)
    while (step := run.batcher.next_step()) is not None:  # unchecked: 1500 chunks take long
        chunks = step.all_chunks()
        run.batcher.computed(step)
        for chunk in chunks:
            if chunk.sequence is not None:
                run._draw(chunk)
    assert len(run.answers) == 1500
    assert run.batcher.counts.preemptions > 0


@pytest.mark.parametrize("step_tokens", [8, 1000])
def test_prompt_larger_than_the_memory_is_refused_by_an_assertion(step_tokens: int) -> None:
    plan = make_plan(Prompts.pack([[1] * 100]), [Sampling(max_tokens=10)])
    with pytest.raises(AssertionError, match="not fit into 3 KV blocks"):
        run_of(plan, [10], 3, step_tokens).play()


@pytest.mark.parametrize("step_tokens", [8, 1000])
def test_answer_larger_than_the_memory_is_refused_by_an_assertion(step_tokens: int) -> None:
    plan = make_plan(Prompts.pack([[1] * 30]), [Sampling(max_tokens=40)])
    with pytest.raises(AssertionError, match="not fit into 3 KV blocks"):
        run_of(plan, [40], 3, step_tokens).play()


def test_no_prompts_need_no_step() -> None:
    assert run_of(make_plan(Prompts.pack([]), []), [], 1, 1).batcher.next_step() is None


# ---- sharing under pressure -----------------------------------------------------------------


def documents(seed: int) -> tuple[list[list[int]], list[int]]:
    """Four templates of 64 tokens, eight documents of 150-250 below each, six questions on each."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(4):
        template = rng.integers(0, 1000, 64).tolist()
        for _ in range(8):
            document = rng.integers(0, 1000, rng.integers(150, 250)).tolist()
            for _ in range(6):
                rows.append(template + document + rng.integers(0, 1000, 12).tolist())
    rng.shuffle(rows)
    return rows, rng.integers(5, 60, len(rows)).tolist()


def shareable(plan: Plan) -> int:
    return plan.tree.shareable_tokens


@pytest.mark.parametrize("order", ["planned", "dfs", "decode-first", "balanced"])
@pytest.mark.parametrize("seed", range(3))
def test_quarter_of_the_memory_keeps_the_sharing(order: str, seed: int) -> None:
    rows, lengths = documents(seed)
    samplings = [Sampling(max_tokens=length, ignore_eos=True) for length in lengths]
    plan = make_plan(Prompts.pack(rows), samplings, order=order)
    quarter = plan.tree.distinct_tokens // 4 // BLOCK_TOKENS
    run = run_of(plan, [s.max_tokens for s in plan.samplings], quarter, step_tokens=512).play()
    again = run.batcher.counts.computed_prompt_tokens - plan.tree.computed_tokens
    # Orders that visit parts of a subtree apart may lose 1 % of the sharing, the others nothing.
    assert again <= (0.01 if order in ("balanced", "decode-first") else 0) * shareable(plan)
    assert run.batcher.counts.preemptions == 0
