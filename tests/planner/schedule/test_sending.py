"""A server meets every prompt once, in the plan's order, behind the leader of its prefix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule import sending as sending_file
from batchpipe.planner.schedule.sending import LEADER_TOKENS, Sending

SHARED = list(range(1, LEADER_TOKENS + 1))


def plan_of(rows: list[list[int]], order: str = "dfs") -> Plan:
    samplings = [Sampling(temperature=1.0)] * len(rows)  # equal rows stay two
    return make_plan(Prompts.pack(rows), samplings, order=order)


def sent_now(sending: Sending) -> list[int]:
    return list(iter(sending.next, None))


# A few long prefixes, which may begin alike, and short tails.
prefixes = st.sampled_from([[], SHARED, SHARED + SHARED, [0] * 100, SHARED + [0] * 100])
rows = st.lists(
    st.tuples(prefixes, st.lists(st.integers(0, 3), min_size=1, max_size=3)).map(
        lambda parts: parts[0] + parts[1]
    ),
    min_size=1,
    max_size=30,
)
orders = st.sampled_from(["planned", "dfs", "input", "decode-first"])


@given(rows, orders)
def test_one_at_a_time_is_the_planned_order(given_rows: list[list[int]], order: str) -> None:
    plan = plan_of(given_rows, order)
    sending, sent = Sending(plan), []
    while (index := sending.next()) is not None:
        sent.append(index)
        sending.answered(index, computed=index % 2 == 0)
    assert sent == plan.order.prompts.tolist()


@given(rows, orders, st.integers(1, 8), st.randoms(use_true_random=False))
def test_every_prompt_is_sent_once_whoever_fails(
    given_rows: list[list[int]], order: str, most: int, random: np.random.Generator
) -> None:
    plan = plan_of(given_rows, order)
    sending, sent, under_way = Sending(plan), [], []
    while True:
        while len(under_way) < most and (index := sending.next()) is not None:
            under_way.append(index)
            sent.append(index)
        if not under_way:
            break
        index = under_way.pop(random.randrange(len(under_way)))  # type: ignore[attr-defined]
        sending.answered(index, computed=bool(random.getrandbits(1)))  # type: ignore[attr-defined]
    assert sorted(sent) == list(range(len(plan.prompts)))


@given(rows)
def test_nobody_computes_a_long_prefix_beside_its_leader(given_rows: list[list[int]]) -> None:
    plan = plan_of(given_rows)
    sending, held = Sending(plan), set[int]()
    while under_way := sent_now(sending):
        new = [
            {n for n in plan.tree.path(int(plan.rank_of[i])) if n not in held} for i in under_way
        ]
        for number, nodes in enumerate(new):
            twice = nodes & set().union(*new[:number])
            lengths = (plan.tree.end - plan.tree.start)[sorted(twice)]
            assert lengths.sum() < LEADER_TOKENS
        for index, nodes in zip(under_way, new, strict=True):
            sending.answered(index, computed=True)
            held |= nodes


def test_another_group_goes_ahead_while_a_leader_is_awaited() -> None:
    plan = plan_of([[*SHARED, 1], [*SHARED, 2], [*SHARED, 3], [0] * 70 + [1], [0] * 70 + [2]])
    sending = Sending(plan)
    first = sent_now(sending)
    assert first == [plan.order.prompts[0], plan.order.prompts[2]]
    sending.answered(first[1], computed=True)
    assert sent_now(sending) == plan.order.prompts[3:].tolist()


def test_behind_a_leader_that_failed_another_leads() -> None:
    sending = Sending(plan_of([[*SHARED, 1], [*SHARED, 2], [*SHARED, 3]]))
    assert sent_now(sending) == [0]
    sending.answered(0, computed=False)
    assert sent_now(sending) == [1]
    sending.answered(1, computed=True)
    assert sent_now(sending) == [2]


def test_a_short_prefix_is_not_waited_for() -> None:
    assert sent_now(Sending(plan_of([[*SHARED[:-1], 1], [*SHARED[:-1], 2]]))) == [0, 1]


def test_in_the_order_of_the_input_nobody_waits() -> None:
    assert sent_now(Sending(plan_of([[*SHARED, 1], [*SHARED, 2]], "input"))) == [0, 1]


def test_what_goes_ahead_stays_near_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending_file, "PARKED", 2)
    rows = [*([*SHARED, tail] for tail in range(4)), [99]]
    assert len(sent_now(Sending(plan_of(rows)))) == 1
