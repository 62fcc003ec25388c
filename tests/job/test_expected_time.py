"""The expected time is that of a dry run, and the interval has the ends that it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_jobs import LLAMA_8B

from batchpipe.job.expected_time import (
    DATASHEET_ERROR,
    MEASURED_ERROR,
    PLAYED_PROMPTS,
    SHORT_SHARE,
    expected_time,
    is_measured,
    known_lengths,
)
from batchpipe.planner.lengths import FIRST_GUESS_TOKENS, REST
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, make_plan
from batchpipe.planner.request import Prompts, Sampling

SETTING = Setting(
    StepCost(LLAMA_8B, MACHINES["h100"], "bfloat16"), kv_blocks=9000, step_tokens=2048
)


def plan_of(count: int, sampling: Sampling, history: dict[bytes, list[int]] | None = None) -> Plan:
    rows = [[row % 7, row, *range(20)] for row in range(count)]
    return make_plan(
        Prompts.pack(rows), [sampling] * count, order="dfs", setting=SETTING, history=history
    )


def seconds_of(plan: Plan, answer_tokens: int) -> float:
    return dry_run(plan, SETTING, np.full(len(plan.prompts), answer_tokens)).makespan_seconds


def test_unknown_lengths_reach_from_short_answers_to_their_limits() -> None:
    plan = plan_of(60, Sampling(max_tokens=700))
    time = expected_time(plan, SETTING)
    assert not time.lengths_known
    assert time.expected_seconds == seconds_of(plan, FIRST_GUESS_TOKENS)
    shortest = seconds_of(plan, FIRST_GUESS_TOKENS // SHORT_SHARE)
    assert time.earliest_seconds == pytest.approx(shortest * (1 - DATASHEET_ERROR))
    assert time.latest_seconds == pytest.approx(seconds_of(plan, 700) * (1 + DATASHEET_ERROR))


@pytest.mark.parametrize(
    ("sampling", "history"),
    [
        (Sampling(max_tokens=30, ignore_eos=True), None),
        (Sampling(max_tokens=700), {REST: [30] * 5}),
    ],
)
def test_known_lengths_leave_what_the_profile_errs(
    sampling: Sampling, history: dict[bytes, list[int]] | None
) -> None:
    plan = plan_of(60, sampling, history)
    assert known_lengths(plan).all()
    machine = replace(MACHINES["h100"], name="measured here")
    setting = replace(SETTING, cost=replace(SETTING.cost, machine=machine))
    for each, error in ((SETTING, DATASHEET_ERROR), (setting, MEASURED_ERROR)):
        time = expected_time(plan, each)
        assert time.lengths_known
        assert time.earliest_seconds == pytest.approx(time.expected_seconds * (1 - error))
        assert time.latest_seconds == pytest.approx(time.expected_seconds * (1 + error))


def test_too_few_earlier_answers_tell_no_length() -> None:
    assert not known_lengths(plan_of(9, Sampling(), {REST: [30] * 4})).any()


def test_a_large_job_is_told_by_a_sample() -> None:
    plan = plan_of(PLAYED_PROMPTS + 4000, Sampling(max_tokens=3, ignore_eos=True))
    whole = dry_run(plan, SETTING)
    assert expected_time(plan, SETTING).expected_seconds == pytest.approx(
        whole.makespan_seconds, rel=0.05
    )
    assert expected_time(plan, SETTING, whole).expected_seconds == whole.makespan_seconds


def test_what_ships_is_no_measurement() -> None:
    assert not any(map(is_measured, MACHINES.values()))
    assert is_measured(replace(MACHINES["l4"], step_seconds=1e-4))
