"""The simulator, which skips steps, against the same steps played one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from dry_run import alone_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import mixed_job, small_setting
from test_token_batcher import plans

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, BlockCount
from batchpipe.planner.order import CANDIDATES, POLICIES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, make_plan, pace_of
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.simulate import Simulation, simulate
from batchpipe.planner.schedule.token_batcher import TokenBatcher


@dataclass(frozen=True, slots=True)
class Played:
    """What stepping through a plan came to."""

    counts: Counts
    answered: list[int]
    seconds: float
    step_tokens: int
    half_keys: float  # a skip takes its middle step as the mean, at most half a key off each step


def play(plan: Plan, setting: Setting, answers: list[int]) -> Played:
    """Every step formed, computed and settled on its own."""
    batcher = TokenBatcher(plan, BlockCount(setting.kv_blocks), pace_of(plan, setting))
    answered: list[int] = []
    seconds, step_tokens = 0.0, 0
    while (step := batcher.next_step()) is not None:
        seconds += setting.cost.seconds(step.load)
        step_tokens += step.load.tokens
        batcher.computed(step)
        for index, sequence in sorted(batcher.decoding.sequences.items()):
            produced = batcher.decoding.produced(sequence)
            if produced >= answers[index]:
                limit = plan.samplings[index].max_tokens
                batcher.finish(sequence, ended_itself=produced < limit)
                answered.append(index)
    half_keys = batcher.counts.steps * setting.cost.key_seconds / 2
    return Played(batcher.counts, answered, seconds, step_tokens, half_keys)


def simulated(plan: Plan, setting: Setting, answers: list[int]) -> tuple[Simulation, Counts]:
    """The simulation and the counts behind it."""
    batcher = TokenBatcher(plan, BlockCount(setting.kv_blocks), pace_of(plan, setting))
    return simulate(batcher, setting.cost, np.array(answers, dtype=np.int64)), batcher.counts


def check_against_steps(plan: Plan, setting: Setting, answers: list[int]) -> Played:
    played = play(plan, setting, answers)
    found, counts = simulated(plan, setting, answers)
    assert sorted(played.answered) == list(range(len(plan.prompts)))
    assert counts == played.counts
    assert counts.completion_tokens == sum(answers)
    assert found.steps == counts.steps
    assert found.mean_step_tokens * max(1, counts.steps) == pytest.approx(played.step_tokens)
    assert found.peak_kv_tokens <= setting.kv_blocks * BLOCK_TOKENS
    # Time is linear in keys but for the kink where reading overtakes the computing it overlaps.
    assert found.makespan_seconds <= played.seconds * (1 + 1e-9) + played.half_keys
    kink = 0.05 if setting.cost.machine.overlap else 1e-9
    assert found.makespan_seconds >= played.seconds * (1 - kink) - played.half_keys
    return played


@settings(max_examples=200)
@given(plans(), st.integers(0, 12), st.integers(1, 200), st.sampled_from([0.0, 0.7, 1.0]))
def test_skipping_steps_changes_nothing(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int, overlap: float
) -> None:
    plan, answers = planned
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, step_tokens, overlap)
    check_against_steps(plan, setting, answers)


def mixed_plan(seed: int, order: str, setting: Setting | None = None) -> Plan:
    """120 prompts with known answers, some of them ten and more times as long as the others."""
    job = [(row, 1 + answer % 400) for row, answer in mixed_job(seed, 120)]
    samplings = [Sampling(max_tokens=answer, ignore_eos=True) for _, answer in job]
    prompts = Prompts.pack([row for row, _ in job])
    return make_plan(prompts, samplings, order=order, setting=setting, simulated_prompts=None)


@pytest.mark.parametrize("order", sorted(POLICIES))
@pytest.mark.parametrize("spare_blocks", [3, 100])
def test_every_policy_is_simulated_as_it_is_stepped(order: str, spare_blocks: int) -> None:
    plan = mixed_plan(1, order)
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, 128, overlap=1.0)
    check_against_steps(plan, setting, plan.output_tokens.tolist())


@pytest.mark.parametrize("order", sorted(POLICIES))
def test_preempted_answers_end_as_if_they_had_not_been(order: str) -> None:
    """History says that answers are short, so too many are let in."""
    prompts = Prompts.pack([[1] * 16 + [place] for place in range(2, 42)])
    plan = make_plan(prompts, [Sampling(max_tokens=100)] * 40, order="dfs")
    plan = replace(plan, history={key: [1] * 50 for key in plan.group_keys})
    plan = replace(plan, order=POLICIES[order](plan.ordering(None)), policy=order)
    setting = small_setting(max(alone_blocks(plan)) + 10, 64)
    played = check_against_steps(plan, setting, [60 + place for place in range(40)])
    assert played.counts.preemptions > 0


# ---- bounds -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(plans(), st.integers(0, 50), st.integers(1, 200), st.sampled_from([0.0, 1.0]))
def test_no_plan_is_faster_than_its_work(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int, overlap: float
) -> None:
    plan, answers = planned
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, step_tokens, overlap)
    found, _ = simulated(plan, setting, answers)
    cost, decodes = setting.cost, sum(answers) - len(answers)
    rows = plan.tree.computed_tokens + decodes
    computing = rows * cost.token_seconds + sum(answers) * cost.head_seconds
    own_tokens = plan.prompts.lengths - _tail_starts(plan)
    own_keys = sum(
        (answer - 1) * own + answer * (answer - 1) // 2
        for own, answer in zip(own_tokens.tolist(), answers, strict=True)
    )
    fixed = max(answers) * (cost.fixed_seconds + cost.weights_seconds(1))
    reading = own_keys * cost.key_seconds
    makespan = found.makespan_seconds * (1 + 1e-9) + found.steps * cost.key_seconds / 2
    assert makespan >= max(computing, reading, fixed)
    if not overlap:
        assert makespan >= computing + reading
    assert found.steps >= max(answers)
    assert found.computed_prompt_tokens >= plan.tree.computed_tokens
    assert 0 < found.compute_utilisation <= 1 + 1e-9
    assert 0 <= found.memory_utilisation <= 1 + 1e-9


def _tail_starts(plan: Plan) -> np.ndarray:
    starts = np.empty(len(plan.prompts), dtype=np.int64)
    starts[plan.tree.order] = plan.tree.tail_start
    return starts


@settings(max_examples=20)
@given(plans(), st.integers(0, 12), st.integers(1, 200))
def test_simulation_is_the_same_for_the_same_plan(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, step_tokens, 1.0)
    assert simulated(plan, setting, answers) == simulated(plan, setting, answers)


@pytest.mark.parametrize("overlap", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_planned_is_never_slower_than_any_candidate(seed: int, overlap: float) -> None:
    blocks = max(alone_blocks(mixed_plan(seed, "dfs"))) + [2, 20, 60, 400][seed]
    setting = small_setting(blocks, 128, overlap)
    planned = dry_run(mixed_plan(seed, "planned", setting), setting)
    for policy in CANDIDATES:
        other = dry_run(mixed_plan(seed, policy, setting), setting)
        assert planned.makespan_seconds <= other.makespan_seconds


def test_simulation_of_nothing_takes_no_time() -> None:
    setting = small_setting(10, 10)
    found = dry_run(make_plan(Prompts.pack([]), [], order="planned", setting=setting), setting)
    assert (found.steps, found.makespan_seconds, found.tokens_per_second) == (0, 0, 0)
    assert found.share_of_bound == 1
