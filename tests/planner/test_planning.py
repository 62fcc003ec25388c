"""Choosing an order: every policy is played, equal orders once, and the fastest is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_jobs import small_setting

from batchpipe.planner import planning
from batchpipe.planner.order import CANDIDATES, POLICIES
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import dry_run, dry_runs, fastest, in_order, make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.simulate import Simulation

SETTING = small_setting(60, 32)


def mixed_plan() -> Plan:
    rows = [[row % 3, row % 5, *range(10, 12 + row % 7), 100 + row] for row in range(40)]
    samplings = [Sampling(max_tokens=1 + 9 * (row % 4), ignore_eos=True) for row in range(40)]
    return make_plan(Prompts.pack(rows), samplings, order="input", setting=SETTING)


def test_every_policy_has_the_simulation_of_its_own_order() -> None:
    plan = mixed_plan()
    played = dry_runs(plan, SETTING, POLICIES)
    assert list(played) == list(POLICIES)
    for policy, simulation in played.items():
        assert simulation == dry_run(in_order(plan, policy, SETTING), SETTING)


def test_equal_orders_are_played_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt has one order read from the front, and one for each number of waves."""
    plan = make_plan(Prompts.pack([[1, 2]]), [Sampling(max_tokens=3)], order="input")
    plays: list[str] = []

    def counted(plan: Plan, setting: planning.Setting) -> Simulation:
        plays.append(plan.policy)
        return dry_run(plan, setting)

    monkeypatch.setattr(planning, "dry_run", counted)
    assert set(dry_runs(plan, SETTING)) == set(CANDIDATES)
    assert plays == ["longest-first", "balanced", "balanced-2", "balanced-3"]


def test_planned_is_the_fastest_candidate_and_the_first_of_equals() -> None:
    plan = mixed_plan()
    played = dry_runs(plan, SETTING)
    best = fastest(played)
    assert played[best].makespan_seconds == min(s.makespan_seconds for s in played.values())
    again = planning.ordered(replace(plan, order_name="planned"), SETTING)
    assert again.policy == best
    assert fastest({"one": played[best], "other": played[best]}) == "one"
