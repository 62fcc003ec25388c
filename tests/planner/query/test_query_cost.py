"""Seconds against the dry run of a whole job."""

from __future__ import annotations

import numpy as np
import pytest
from toy_models import SHAPES

from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.machines import machine_named
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.planning import Setting, dry_run, make_plan
from batchpipe.planner.query.cost import (
    ModelHost,
    MovingAverage,
    asking_seconds,
    load_seconds,
    sql_seconds,
    tool_seconds,
)
from batchpipe.planner.query.estimate import Estimate
from batchpipe.planner.request import Prompts, Sampling

KV_TOKENS = 64_000
SMALL, LARGE = (StepCost(each, machine_named("h100"), "bfloat16") for each in SHAPES.values())
JOBS = [
    (300, 0, 500, 100),
    (1000, 900, 100, 30),
    (2000, 50, 60, 5),
    (8, 0, 100, 300),
    (400, 0, 20, 200),
]


@pytest.mark.parametrize("machine", ["h100", "l4"])
@pytest.mark.parametrize(("prompts", "shared", "own", "answer"), JOBS)
def test_a_models_time_is_near_that_of_the_dry_run(
    machine: str, prompts: int, shared: int, own: int, answer: int
) -> None:
    cost = StepCost(SHAPES["small"], machine_named(machine), "bfloat16")
    rows = [[1] * shared + [2 + row] * own for row in range(prompts)]
    samplings = [Sampling(max_tokens=answer, ignore_eos=True)] * prompts
    setting = Setting(cost, KV_TOKENS // BLOCK_TOKENS, 2048)
    plan = make_plan(Prompts.pack(rows), samplings, order="dfs")
    found = dry_run(plan, setting, np.full(prompts, answer))
    asked = Estimate(
        rows=prompts,
        calls=prompts,
        prompt_tokens=prompts * (shared + own),
        computed_tokens=shared + prompts * own,
        output_tokens=prompts * answer,
    )
    seconds = asking_seconds(asked, ModelHost(cost, KV_TOKENS, 2048))
    assert seconds == pytest.approx(found.makespan_seconds, rel=0.35)


def test_nothing_asked_takes_no_time() -> None:
    assert asking_seconds(Estimate(), ModelHost(SMALL, KV_TOKENS)) == 0


def test_longer_prompts_and_answers_take_longer() -> None:
    def seconds(prompt: float, answer: float) -> float:
        asked = Estimate(100, 100, 100 * prompt, 100 * prompt, 100 * answer)
        return asking_seconds(asked, ModelHost(SMALL, KV_TOKENS))

    assert seconds(100, 10) < seconds(1000, 10) < seconds(1000, 100)


def test_a_moving_average_starts_with_what_was_expected_and_follows_what_is_seen() -> None:
    average = MovingAverage(mean=4.0, weight=0.25)
    average.add(2.0)
    assert average.mean == 3.0  # expected once, seen once
    for _ in range(50):
        average.add(8.0)
    assert average.mean == pytest.approx(8.0, abs=1e-4)
    average.add(0.0)
    assert average.mean == pytest.approx(6.0, abs=1e-3)


def test_a_query_costs_what_the_database_says_else_what_others_took() -> None:
    assert sql_seconds(1e6) == pytest.approx(3.65)
    assert sql_seconds(0.0) == 1e-3


def test_tools_are_called_side_by_side() -> None:
    assert tool_seconds(1000, 0.2, 10) == pytest.approx(20)
    assert tool_seconds(3, 0.2, 10) == pytest.approx(0.2)
    assert tool_seconds(0, 0.2, 10) == 0


def test_loading_reads_the_weights() -> None:
    assert load_seconds(28e9, bytes_per_second=2e9, start_seconds=1) == 15
