"""KV that leaves the device goes to the host and comes back: as the tokens that it was, and once.

`dry_run` copies tokens from slot to slot as the steps' moves say: what is copied too late, or from
where another's KV lies by then, shows as a wrong token in somebody's context.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dry_run import DryRun, alone_blocks
from hypothesis import given
from hypothesis import strategies as st
from small_jobs import FAST_LINK, LLAMA_8B, SLOW_LINK, linked_cost
from test_token_batcher import documents, plans, run_of, thoroughly

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, BlockCount, KVLedger, blocks_for
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.host_memory import HostMemory
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.segment import Segment
from batchpipe.planner.schedule.simulate import simulate
from batchpipe.planner.schedule.token_batcher import TokenBatcher


@thoroughly
@given(plans(), st.integers(0, 6), st.integers(1, 200), st.sampled_from([1, 5, 20, 200]))
def test_a_host_of_any_size_keeps_every_context_right(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int, host_blocks: int
) -> None:
    plan, answers = planned
    tight = max(alone_blocks(plan)) + spare_blocks
    run_of(plan, answers, tight, step_tokens, [1] * 20, host_blocks).play()


@thoroughly
@given(plans(), st.integers(0, 6), st.integers(1, 200))
def test_nothing_is_computed_twice_where_the_host_has_room_for_all(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    tight = max(alone_blocks(plan)) + spare_blocks
    counts = run_of(plan, answers, tight, step_tokens, [1] * 20, 10_000).play().batcher.counts
    assert counts.recomputed_tokens == 0
    assert counts.computed_prompt_tokens == plan.tree.computed_tokens
    assert counts.restored_tokens == counts.swapped_tokens


def preempting(host_blocks: int, swap_by: StepCost = FAST_LINK) -> DryRun:
    """Ten answers that turn out much longer than those before them."""
    prompts = Prompts.pack([[1] * 16 + [place] for place in range(2, 12)])
    plan = make_plan(prompts, [Sampling(max_tokens=100)] * 10)
    kv_blocks = max(alone_blocks(plan)) + 4
    return run_of(plan, [100] * 10, kv_blocks, 64, [1] * 50, host_blocks, swap_by)


def test_who_is_preempted_goes_on_where_it_was() -> None:
    without, beside = preempting(0).play().batcher.counts, preempting(200).play().batcher.counts
    assert without.recomputed_tokens > 0
    assert beside.preemptions > 0
    assert beside.swapped_tokens == beside.restored_tokens > 0
    assert beside.recomputed_tokens == 0


def test_a_small_host_takes_what_it_has_room_for() -> None:
    counts = preempting(4).play().batcher.counts
    assert counts.swapped_tokens > 0
    assert 0 < counts.recomputed_tokens < preempting(0).play().batcher.counts.recomputed_tokens


def test_over_a_slow_link_all_is_computed_again() -> None:
    counts = preempting(200, SLOW_LINK).play().batcher.counts
    assert (counts.swapped_tokens, counts.restored_tokens) == (0, 0)
    assert counts.recomputed_tokens == preempting(0).play().batcher.counts.recomputed_tokens


def test_what_is_evicted_from_the_tree_comes_back() -> None:
    rows, lengths = documents(0)
    samplings = [Sampling(max_tokens=length, ignore_eos=True) for length in lengths]
    plan = make_plan(Prompts.pack(rows), samplings, order="input")
    quarter = plan.tree.distinct_tokens // 4 // BLOCK_TOKENS
    answers = [s.max_tokens for s in plan.samplings]
    without = run_of(plan, answers, quarter, 512).play().batcher.counts
    beside = run_of(plan, answers, quarter, 512, host_blocks=10_000).play().batcher.counts
    assert without.evicted_tokens > 0
    assert beside.swapped_tokens > 0
    assert (
        beside.computed_prompt_tokens
        == plan.tree.computed_tokens
        < (without.computed_prompt_tokens)
    )


@pytest.mark.parametrize("machine", ["h100", "a100-80g"])
def test_an_8b_model_sets_long_contexts_aside_and_on_a_slow_link_computes(machine: str) -> None:
    cost = StepCost(LLAMA_8B, MACHINES[machine], "bfloat16")
    assert cost.pays_to_set_aside(4096, 0)
    slow = replace(MACHINES[machine], host_bytes_per_second=1e9)
    assert not StepCost(LLAMA_8B, slow, "bfloat16").pays_to_set_aside(4096, 0)


def test_behind_more_tokens_computing_is_dearer_and_copying_is_not() -> None:
    tokens = 64
    near = FAST_LINK.prefill_seconds(tokens, 0)
    assert FAST_LINK.prefill_seconds(tokens, 10_000) > 2 * near
    kv_bytes = tokens * FAST_LINK.shape.kv_bytes_per_token("bfloat16")
    cost = linked_cost(2 * kv_bytes / (2 * near))
    assert not cost.pays_to_set_aside(tokens, 0)
    assert cost.pays_to_set_aside(tokens, 10_000)


def test_a_dry_run_takes_the_time_of_its_copies_and_counts_them() -> None:
    rows, lengths = documents(1)
    samplings = [Sampling(max_tokens=length, ignore_eos=True) for length in lengths]
    plan = make_plan(Prompts.pack(rows), samplings, order="input")
    quarter = plan.tree.distinct_tokens // 4 // BLOCK_TOKENS
    without = dry_run(plan, Setting(FAST_LINK, quarter, 512))
    beside = dry_run(plan, Setting(FAST_LINK, quarter, 512, host_blocks=10_000))
    assert without.swapped_tokens == 0 < beside.swapped_tokens
    assert beside.makespan_seconds < without.makespan_seconds
    batcher = TokenBatcher(
        plan,
        BlockCount(quarter),
        Full(512),
        host=BlockCount(10_000),
        swap_by=FAST_LINK,
    )
    slow = linked_cost(1e6)  # than it was decided by
    simulation = simulate(batcher, slow, plan.output_tokens)
    copies = batcher.counts.swapped_tokens + batcher.counts.restored_tokens
    longer = simulation.makespan_seconds - beside.makespan_seconds
    assert longer == pytest.approx(slow.copy_seconds(copies), rel=1e-3)


def test_what_lies_behind_a_gap_comes_back_when_the_gap_is_computed() -> None:
    memory = HostMemory(KVLedger(20), FAST_LINK, Counts())
    segment = Segment(0, 10, 0, np.arange(60, dtype=np.int32))
    aside = memory.set_aside(25, np.arange(100, 140))  # positions 25 to 65: its tokens 15 to 55
    assert aside is not None
    memory.hand(aside, segment, most=50)
    memory.free(aside)
    [out] = memory.moves()

    def reserve(wanted: Segment, tokens: int) -> bool:
        wanted.blocks = list(range(blocks_for(tokens)))
        return True

    assert memory.bring_back(segment, reserve)
    assert memory.moves() == ()
    assert memory.resumes(segment, 0) == 15
    segment.computed = 14
    assert memory.bring_back(segment, reserve)
    assert memory.moves() == ()
    segment.computed = 20  # and some of what lies here as well
    assert memory.bring_back(segment, reserve)
    [back] = memory.moves()
    assert segment.computed == 50, "no more than was handed"
    assert back.device.tolist() == list(range(20, 50))
    assert back.host.tolist() == out.host[5:35].tolist()
    assert memory.resumes(segment, 50) == 60, "nothing is left"
    assert memory._ledger is not None
    assert memory._ledger.free == 20


def test_without_room_on_the_device_it_stays_where_it_is() -> None:
    memory = HostMemory(KVLedger(20), FAST_LINK, Counts())
    segment = Segment(0, 0, 0, np.arange(60, dtype=np.int32))
    segment.blocks, segment.computed = [3, 1, 2], 40
    memory.leaving(segment)
    segment.release()
    memory.moves()
    assert not memory.bring_back(segment, lambda _, __: False)
    memory.leaving(segment)  # its sequence has to wait once more
    segment.blocks = [7, 8, 9]
    assert memory.bring_back(segment, lambda _, __: True)
    [back] = memory.moves()
    assert back.device.tolist() == list(range(7 * BLOCK_TOKENS, 7 * BLOCK_TOKENS + 40))
    assert memory._ledger is not None
    assert memory._ledger.free == 20


def test_a_prompt_that_draws_nothing_may_come_back_whole() -> None:
    scored = Sampling(max_tokens=0, prompt_logprobs=0)
    drawn = Sampling(max_tokens=60)
    prompts = Prompts.pack([[1, *range(30, 75)], [2, *range(80, 125)]])
    plan = make_plan(prompts, [drawn, scored], order="input")
    host = KVLedger(20)
    batcher = TokenBatcher(plan, KVLedger(12), Full(100), host=host, swap_by=FAST_LINK)
    step = batcher.next_step()
    assert step is not None
    [silent] = step.silent
    batcher.computed(step)
    for sequence in step.ending:
        batcher.drew(sequence, [5])
        sequence.answer.append(5)
    batcher._preempt(silent)  # all of it is computed, and nobody was told
    step = batcher.next_step()
    assert step is not None
    assert [move.out for move in step.moves] == [True, False]
    assert step.silent == (silent,)
    assert silent.tail not in [chunk.segment for chunk in step.all_chunks()]
    batcher.computed(step)
    batcher.finish(silent, ended_itself=False)
    assert host.free == 20


def test_without_host_memory_nothing_is_set_aside() -> None:
    slots = np.arange(20)
    assert HostMemory(None, FAST_LINK, Counts()).set_aside(0, slots) is None
    assert HostMemory(KVLedger(2), None, Counts()).set_aside(0, slots) is None
    memory = HostMemory(KVLedger(blocks_for(20)), FAST_LINK, Counts())
    assert memory.set_aside(0, slots) is not None
    assert memory.set_aside(20, slots) is None, "the host is full"
    assert len(memory.moves()) == 1
    assert memory.moves() == ()
