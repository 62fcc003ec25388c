"""Plans that learn answer lengths while they run: a pilot first, then a better order."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from dry_run import DryRun, alone_blocks, ample_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import small_cost, small_setting
from test_token_batcher import plans

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger
from batchpipe.planner.order import CANDIDATES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, make_plan, pace_of
from batchpipe.planner.replan import PILOT_KV_SHARE, Replanner, pilot_prompts
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.segment import Sequence
from batchpipe.planner.schedule.step import Step
from batchpipe.planner.schedule.token_batcher import TokenBatcher

SHORT, LONG = 3, 40  # tokens of the answers to the two templates
LEARNING = ("planned", "decode-first")


class Replanning(TokenBatcher):
    """A batcher whose order is renewed between steps, as a run does it."""

    def __init__(self, replanner: Replanner, setting: Setting) -> None:
        plan = replanner.plan
        super().__init__(plan, KVLedger(setting.kv_blocks), pace_of(plan, setting))
        self.replanner = replanner
        self.reordered_after: list[int] = []  # answers, at each new order
        self.answered = 0

    def next_step(self) -> Step | None:
        if self.replanner.between_steps(self):
            self.reordered_after.append(self.answered)
        return super().next_step()

    def finish(self, sequence: Sequence, *, ended_itself: bool) -> None:
        super().finish(sequence, ended_itself=ended_itself)
        self.replanner.answered(sequence.index)
        self.answered += 1


def two_templates(
    order: str, count: int = 150, *, exact: bool = False, kv_blocks: int = 500
) -> tuple[Plan, list[int], Setting]:
    """The same number of prompts of each template; the second has longer prompts and answers."""
    rng = np.random.default_rng(2)
    heads = [[1] * 70, [2] * 70]
    rows, answers = [], []
    for place in range(2 * count):
        kind = place % 2
        rows.append([*heads[kind], *rng.integers(3, 9, 20 + 10 * kind).tolist(), 100 + place])
        answers.append(LONG if kind else SHORT)
    samplings = [
        Sampling(max_tokens=answer if exact else 64, ignore_eos=exact) for answer in answers
    ]
    setting = small_setting(kv_blocks, 48)
    return make_plan(Prompts.pack(rows), samplings, order=order, setting=setting), answers, setting


def pilot_of(plan: Plan, kv_blocks: int) -> list[int]:
    open_ended = np.array([not plan.exact_length(i) for i in range(len(plan.prompts))])
    return [int(index) for index in pilot_prompts(plan, open_ended, kv_blocks)]


def pilot_tokens(plan: Plan, pilot: list[int]) -> int:
    """Distinct tokens of these prompts, each last one counted, and their expected answers."""
    rows = [plan.prompts[index].tolist() for index in pilot]
    distinct = {tuple(row[:end]) for row in rows for end in range(1, len(row))}
    return len(distinct) + len(rows) + sum(int(plan.output_tokens[index]) for index in pilot)


# ---- the pilot ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", CANDIDATES)
@pytest.mark.parametrize("kv_blocks", [1500, 10_000])
def test_pilot_is_a_hundredth_of_the_prompts_and_admitted_first(
    policy: str, kv_blocks: int
) -> None:
    plan, _, setting = two_templates(policy, 500, kv_blocks=kv_blocks)
    plan, setting = replace(plan, order_name="planned"), replace(setting, step_tokens=4000)
    pilot = pilot_of(plan, kv_blocks)
    assert len(pilot) == 10
    replanner = Replanner(plan, setting)
    stays = np.ones(len(plan.prompts), dtype=np.bool_)
    stays[pilot] = False
    assert replanner.plan.order.only(stays).prompts.tolist() == (
        plan.order.only(stays).prompts.tolist()
    )
    batcher = Replanning(replanner, setting)
    batcher.next_step()
    assert list(batcher.running)[:10] == pilot


def test_pilot_has_prompts_of_every_large_group_by_its_size() -> None:
    plan, _, setting = two_templates("decode-first", 500, kv_blocks=2000)
    kinds = [index % 2 for index in pilot_of(plan, setting.kv_blocks)]
    assert (kinds.count(0), kinds.count(1)) == (5, 5)


def test_groups_with_history_need_no_pilot() -> None:
    plan, _, setting = two_templates("decode-first", 500, kv_blocks=2000)
    known = replace(plan, history={plan.group_keys[int(plan.groups[0])]: [7] * 5})
    assert {index % 2 for index in pilot_of(known, setting.kv_blocks)} == {1}
    known = replace(plan, history={key: [7] * 5 for key in plan.group_keys})
    assert pilot_of(known, setting.kv_blocks) == []


@pytest.mark.parametrize("kv_blocks", [10, 30, 100, 500, 5000])
@pytest.mark.parametrize("shared", [0, 70, 300])
def test_pilot_takes_at_most_a_tenth_of_the_memory(kv_blocks: int, shared: int) -> None:
    rng = np.random.default_rng(3)
    head = [1] * shared
    rows = [[*head, *rng.integers(0, 999, rng.integers(1, 90)).tolist()] for _ in range(1000)]
    plan = make_plan(Prompts.pack(rows), [Sampling(max_tokens=20)] * 1000, order="decode-first")
    pilot = pilot_of(plan, kv_blocks)
    assert pilot_tokens(plan, pilot) <= PILOT_KV_SHARE * kv_blocks * BLOCK_TOKENS
    assert len(pilot) <= 10
    if kv_blocks == 5000:
        assert len(pilot) == 10


# ---- the order afterwards -----------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["decode-first", "longest-first"])
def test_later_order_follows_the_lengths_learnt(policy: str) -> None:
    """By the first guess all answers are of one length, so the shorter prompts lead."""
    plan, answers, setting = two_templates(policy)
    kinds = [answers[index] for index in plan.order.prompts.tolist()]
    assert kinds == sorted(kinds)
    batcher = Replanning(Replanner(plan, setting), setting)
    for _ in DryRun(plan, batcher, answers, setting.step_tokens).steps():
        if batcher.reordered_after:
            break
    kinds = [answers[index] for index in batcher.waiting.coming.tolist()]
    assert set(kinds) == {SHORT, LONG}
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_later_density_follows_the_lengths_learnt(overlap: float) -> None:
    plan, answers, setting = two_templates("balanced")
    setting = replace(setting, cost=small_cost(overlap))
    batcher = Replanning(Replanner(plan, setting), setting)
    for _ in DryRun(plan, batcher, answers, setting.step_tokens).steps():
        if batcher.reordered_after:
            break
    assert (np.diff(batcher.waiting.order.density) <= 0).all()
    kinds = [answers[index] for index in batcher.waiting.coming.tolist()]
    assert kinds == sorted(kinds)  # those with long answers are at the back


@pytest.mark.parametrize("order", LEARNING)
@pytest.mark.parametrize("kv_blocks", [30, 500, 2000])
def test_every_prompt_is_answered_once(order: str, kv_blocks: int) -> None:
    plan, answers, setting = two_templates(order, kv_blocks=kv_blocks)
    batcher = Replanning(Replanner(plan, setting), setting)
    run = DryRun(plan, batcher, answers, setting.step_tokens).play()
    assert len(run.answers) == len(answers)
    after = batcher.reordered_after
    assert after
    assert all(later >= 2 * before for before, later in pairwise(after))


@settings(max_examples=100)
@given(st.sampled_from(LEARNING).flatmap(plans), st.integers(0, 12), st.integers(1, 100))
def test_renewed_orders_lose_nothing(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, step_tokens)
    DryRun(plan, Replanning(Replanner(plan, setting), setting), answers, step_tokens).play()


@settings(max_examples=100)
@given(
    st.sampled_from(["balanced", "balanced-2", "longest-first"]).flatmap(plans),
    st.integers(0, 12),
    st.integers(1, 100),
)
def test_renewed_orders_of_a_chosen_policy_lose_nothing(
    planned: tuple[Plan, list[int]], spare_blocks: int, step_tokens: int
) -> None:
    plan, answers = planned
    plan = replace(plan, order_name="planned")
    setting = small_setting(max(alone_blocks(plan)) + spare_blocks, step_tokens, overlap=1.0)
    DryRun(plan, Replanning(Replanner(plan, setting), setting), answers, step_tokens).play()


@pytest.mark.parametrize(
    ("order", "exact"),
    [("dfs", False), ("input", False), ("planned", True), ("decode-first", True)],
)
def test_nothing_is_reordered_where_lengths_do_not_matter_or_are_known(
    order: str, exact: bool
) -> None:
    plan, answers, setting = two_templates(order, 60, exact=exact)
    replanner = Replanner(plan, setting)
    assert replanner.plan.order.prompts.tolist() == plan.order.prompts.tolist()
    batcher = Replanning(replanner, setting)
    DryRun(plan, batcher, answers, setting.step_tokens).play()
    assert batcher.reordered_after == []


def test_ample_memory_computes_each_shared_token_once_in_any_order() -> None:
    plan, answers, setting = two_templates("decode-first", 100)
    setting = replace(setting, kv_blocks=ample_blocks(plan))
    batcher = Replanning(Replanner(plan, setting), setting)
    DryRun(plan, batcher, answers, setting.step_tokens).play()
    assert batcher.reordered_after
    assert batcher.counts.computed_prompt_tokens == plan.tree.computed_tokens
