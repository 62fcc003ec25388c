"""Guessing ahead: what is computed, what that costs, and what it leaves alone."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from always import Always
from dry_run import DryRun, alone_blocks, ample_blocks, answer_token
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import LLAMA_8B, small_setting
from test_token_batcher import plans

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.machine.step_load import StepLoad
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import dry_run, make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.segment import Chunk, Draft, Segment, Sequence
from batchpipe.planner.schedule.speculation import (
    MOST_GUESSED,
    WORTH,
    Guess,
    Level,
    Speculation,
    best_bet,
    even_bet,
)
from batchpipe.planner.schedule.step import with_guesses
from batchpipe.planner.schedule.token_batcher import TokenBatcher

GPU = StepCost(LLAMA_8B, MACHINES["a100-80g"], "bfloat16")
FEW = StepLoad(4, 4, 4, own_keys=4000)
MANY = StepLoad(4000, 4000, 4000, own_keys=400_000)


class Oracle:
    """Guesses the played answers, each token right with a chance of its own."""

    def __init__(self, chance: float, seed: int = 0) -> None:
        self.chance, self.random = chance, random.Random(seed)
        self.asked = 0
        self.forgotten: list[int] = []

    def guess(self, sequence: Sequence, most: int) -> Guess | None:
        self.asked += 1
        tokens = [
            answer_token(sequence.index, len(sequence.answer) + nth)
            if self.random.random() < self.chance
            else -7
            for nth in range(self.random.randint(0, most))
        ]
        return Guess(tuple(tokens), self.random.randint(1, 3)) if tokens else None

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence.index)


def run_of(
    plan: Plan,
    answers: list[int],
    kv_blocks: int,
    step_tokens: int,
    speculation: Speculation | None,
    seen: tuple[int, ...] = (),
) -> DryRun:
    pace, ledger = Full(step_tokens), KVLedger(kv_blocks)
    batcher = TokenBatcher(plan, ledger, pace, speculation=speculation)
    for length in seen:
        batcher.lengths.add(0, length)
    return DryRun(plan, batcher, answers, step_tokens)


chances = st.sampled_from([0.0, 0.3, 0.8, 1.0])


# ---- the scheduler ----------------------------------------------------------------------------


@settings(max_examples=200)
@given(plans(), st.integers(0, 12), st.integers(1, 200), chances, st.sampled_from([0, 1, 5]))
def test_every_plan_is_answered_once_whatever_is_guessed(
    planned: tuple[Plan, list[int]],
    spare_blocks: int,
    step_tokens: int,
    chance: float,
    optimism: int,
) -> None:
    plan, answers = planned
    tight = max(alone_blocks(plan)) + spare_blocks
    oracle, seen = Oracle(chance), (optimism,) * 20 if optimism else ()
    run = run_of(plan, answers, tight, step_tokens, Always(oracle), seen).play()
    assert run.batcher.counts.peak_kv_tokens <= tight * BLOCK_TOKENS
    assert sorted(oracle.forgotten) == sorted(run.answers)
    if chance == 0:
        assert run.batcher.counts.accepted_tokens == 0


@settings(max_examples=100)
@given(plans(), st.integers(0, 12), st.integers(1, 200))
def test_wrong_guesses_change_no_step_and_preempt_nobody(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    tight = max(alone_blocks(plan)) + spare_blocks

    def played(speculation: Speculation | None) -> tuple[list[list[tuple[int, int, int]]], int]:
        run = run_of(plan, answers, tight, step_tokens, speculation, (1,) * 20)
        steps = [[(c.segment.rank, c.segment.position, c.start) for c in s] for s in run.steps()]
        return steps, run.batcher.counts.preemptions

    assert played(Always(Oracle(0.0))) == played(None)


def test_right_guesses_spare_steps() -> None:
    plan = make_plan(Prompts.pack([[1, 2], [3, 4]]), [Sampling(max_tokens=90)] * 2)
    slow = run_of(plan, [90, 90], 40, 64, None).play().batcher.counts
    fast = run_of(plan, [90, 90], 40, 64, Always(Oracle(1.0))).play().batcher.counts
    assert fast.steps < slow.steps / 3
    assert fast.accepted_tokens == fast.drafted_tokens > 120


def test_nothing_is_guessed_beside_prompts() -> None:
    prompts = Prompts.pack([[1] * 4, [2] * 60])
    plan = make_plan(prompts, [Sampling(max_tokens=30)] * 2, order="input")
    run = run_of(plan, [30, 30], 40, 16, Always(Oracle(1.0)))
    for chunks in run.steps():
        prefills = any(chunk.end - chunk.start > 1 and chunk.draft is None for chunk in chunks)
        assert not prefills or all(chunk.draft is None for chunk in chunks)
    assert run.batcher.counts.accepted_tokens > 0


# ---- the bet ----------------------------------------------------------------------------------


def test_few_decodes_bet_on_likely_guesses_alone() -> None:
    assert even_bet(GPU, FEW, 0.9).tokens > 2.5 * FEW.drawn
    assert even_bet(GPU, FEW, 0.9).load.tokens == 4 + 4 * MOST_GUESSED
    assert even_bet(GPU, FEW, 0.01).load == FEW
    assert even_bet(GPU, FEW, 0.0).load == FEW


def test_steps_beyond_the_knee_bet_on_nothing() -> None:
    assert even_bet(GPU, MANY, 0.95).load == MANY


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 20)), max_size=12),
    st.integers(1, 300),
    st.integers(1, 2000),
)
def test_bet_is_the_best_of_all_cuts(
    drawn: list[tuple[float, int]], decodes: int, context: int
) -> None:
    load = StepLoad(decodes, decodes, decodes, own_keys=decodes * context)
    levels = [Level(chance, tokens, 1) for chance, tokens in drawn]
    bet = best_bet(GPU, load, levels)
    plain = decodes / GPU.seconds(load)
    rates = [plain]
    for cut in {chance for chance, _ in drawn}:
        kept = [level for level in levels if level.chance >= cut]
        tokens = sum(level.tokens for level in kept)
        gained = sum(level.tokens * level.chance for level in kept)
        more = with_guesses(load, tokens)
        rates.append((decodes + gained) / GPU.seconds(more))
    assert bet.rate >= max(rates) / WORTH - 1e-9
    assert bet.rate == plain or bet.rate > plain * WORTH


def test_chunks_that_a_cpu_reads_apart_are_paid_for() -> None:
    cpu = StepCost(LLAMA_8B, MACHINES["cpu-2core"], "bfloat16")
    few = replace(FEW, own_keys=400)
    cheap = replace(cpu, machine=replace(cpu.machine, device="cuda"))
    assert (cpu.apart_seconds > 0, cheap.apart_seconds) == (True, 0)
    bets = [even_bet(cost, few, 0.9) for cost in (cpu, cheap)]
    assert bets[0].seconds == pytest.approx(bets[1].seconds + 4 * cpu.apart_seconds)


# ---- learning ---------------------------------------------------------------------------------


def tail_of(count: int, tokens: int) -> tuple[Plan, list[int]]:
    prompts = Prompts.pack([[place, place + 1] for place in range(count)])
    return make_plan(prompts, [Sampling(max_tokens=tokens)] * count), [tokens] * count


def test_guesses_that_fail_are_never_computed() -> None:
    plan, answers = tail_of(4, 400)
    run = run_of(plan, answers, 400, 64, Speculation(GPU, Oracle(0.0))).play()
    assert run.batcher.counts.drafted_tokens == 0


def test_guesses_that_come_to_fail_are_soon_no_longer_computed() -> None:
    plan, answers = tail_of(4, 1200)
    oracle = Oracle(1.0)
    run = run_of(plan, answers, 400, 64, Speculation(GPU, oracle))
    for number, _ in enumerate(run.steps()):
        if number == 40:
            oracle.chance = 0.0
        if number == 200:
            drafted_until = run.batcher.counts.drafted_tokens
    assert 0 < drafted_until == run.batcher.counts.drafted_tokens


def test_guesses_that_come_true_are_computed_in_full() -> None:
    plan, answers = tail_of(4, 400)
    run = run_of(plan, answers, 400, 64, Speculation(GPU, Oracle(1.0))).play()
    assert run.batcher.counts.steps < 150


def test_chances_are_learnt_without_being_paid_for() -> None:
    plan, answers = tail_of(4, 600)
    oracle = Oracle(0.0)
    run = run_of(plan, answers, 400, 64, Speculation(GPU, oracle))
    for number, _ in enumerate(run.steps()):
        if number == 200:
            drafted_until = run.batcher.counts.drafted_tokens
            oracle.chance = 1.0  # from here on answers repeat themselves
    assert drafted_until == 0
    assert run.batcher.counts.accepted_tokens > 1000


def test_nobody_is_asked_where_no_guess_could_pay() -> None:
    plan, answers = tail_of(2000, 3)
    oracle = Oracle(1.0)
    run_of(plan, answers, 4000, 100_000, Speculation(GPU, oracle)).play()
    assert oracle.asked == 0


def test_expected_chance_is_nothing_at_first_and_then_what_was_seen() -> None:
    plan, answers = tail_of(4, 400)
    speculation = Speculation(GPU, Oracle(0.6))
    assert speculation.expected_chance == 0
    run_of(plan, answers, 400, 64, speculation).play()
    # Of guesses of 0 to 8 tokens one in nine is none.
    assert speculation.expected_chance == pytest.approx(0.6 * 8 / 9, abs=0.2)


# ---- the simulation ---------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.8])
def test_simulated_tail_takes_what_the_played_one_takes(chance: float) -> None:
    """Against the scheduler itself, with guesses that come true as often as is said."""

    class Full8(Oracle):
        def guess(self, sequence: Sequence, most: int) -> Guess | None:
            tokens = (
                answer_token(sequence.index, len(sequence.answer) + nth)
                if self.random.random() < self.chance
                else -7
                for nth in range(most)
            )
            return Guess(tuple(tokens), 1)

    plan, answers = tail_of(4, 1500)
    plan = replace(plan, output_tokens=np.array(answers))
    setting = replace(small_setting(1000, 64), cost=GPU, guess_chance=chance)
    run = run_of(plan, answers, 1000, 64, Speculation(GPU, Full8(chance)))
    seconds = 0.0
    for chunks in run.steps():
        tokens = sum(c.end - c.draft.start for c in chunks if c.draft)
        load = StepLoad(4, 4, 4, own_keys=sum(c.end for c in chunks))
        seconds += GPU.seconds(with_guesses(load, tokens))
    found = dry_run(plan, setting)
    assert found.makespan_seconds == pytest.approx(seconds, rel=0.12)
    assert found.steps == pytest.approx(run.batcher.counts.steps, rel=0.12)


def test_simulation_expects_no_guesses_unless_told() -> None:
    plan, _ = tail_of(4, 300)
    setting = small_setting(1000, 64)
    assert dry_run(plan, setting) == dry_run(plan, replace(setting, guess_chance=0.0))


# ---- a chunk with guesses ---------------------------------------------------------------------


def test_chunk_draws_behind_its_last_known_token_and_every_guess() -> None:
    tail = Segment(-1, 5, 0, np.arange(10, dtype=np.int32))
    tail.answer += [20, 21]
    chunk = Chunk(tail, 11, 15, Sequence(0, 10, tail), Draft(12, (30, 31, 32)))
    assert chunk.token_ids().tolist() == [21, 30, 31, 32]
    assert list(chunk.drawing) == [11, 12, 13, 14]
    assert chunk.guessed(0, 13).tolist() == [30]
    half = Chunk(tail, 13, 15, chunk.sequence, chunk.draft)
    assert half.token_ids().tolist() == [31, 32]
    assert list(half.drawing) == [13, 14]


def test_blocks_given_back_leave_no_trace_in_the_slots() -> None:
    tail = Segment(-1, 0, 0, np.arange(16, dtype=np.int32))
    tail.blocks += [3, 5]
    assert tail.slots[-1] == 5 * BLOCK_TOKENS + 15
    assert tail.surplus(16) == [5]
    tail.blocks.append(9)
    assert tail.slots[16:].tolist() == list(range(144, 160))
    assert tail.surplus(17) == []


def test_memory_that_is_ample_bounds_no_draft() -> None:
    plan, answers = tail_of(3, 100)
    run = run_of(plan, answers, ample_blocks(plan), 64, Always(Oracle(1.0)))
    longest = max(len(c.draft.tokens) for chunks in run.steps() for c in chunks if c.draft)
    assert longest == MOST_GUESSED
