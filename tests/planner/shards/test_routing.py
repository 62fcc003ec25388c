"""Prompts that come one by one: each begun once by a worker with its model, whoever dies."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.shards.beginnings import names_of
from batchpipe.planner.shards.line import RoutedPrompt
from batchpipe.planner.shards.routing import Router

BLOCK = 16


def prompt(
    ticket: int, *parts: int, model: str = "m", follows: int | None = None, feeds: int = 0
) -> RoutedPrompt:
    """Of so many blocks, each of one token; a second's work for each block and one for drawing."""
    tokens = np.repeat(np.array(parts, dtype=np.int32), BLOCK)
    return RoutedPrompt(
        ticket,
        model,
        names_of(model, tokens),
        seconds=len(parts) + 1.0,
        token_seconds=1 / BLOCK,
        follows=follows,
        feeds=feeds,
    )


def router_with(*models: str) -> Router:
    router = Router(len(models))
    for worker, each in enumerate(models):
        router.settle(worker, each.split())
    return router


def taken(router: Router, worker: int) -> list[int]:
    return [each.ticket for each in router.take(worker).prompts]


def test_prompts_go_where_their_model_is() -> None:
    router = router_with("a", "b", "a b")
    for ticket in range(60):
        router.add(prompt(ticket, ticket, model="ab"[ticket % 2]))
    assert {ticket % 2 for ticket in taken(router, 0)} == {0}
    assert {ticket % 2 for ticket in taken(router, 1)} == {1}
    assert {ticket % 2 for ticket in taken(router, 2)} == {0, 1}


def test_prompts_that_begin_alike_go_to_one_worker() -> None:
    router = router_with("m", "m")
    order = [(group, n) for n in range(6) for group in range(20)]
    for ticket, (group, n) in enumerate(order):
        router.add(prompt(ticket, *([group] * 8), 1000 + n))
    lines = [set(), set()]
    for worker in (0, 1):
        while some := router.take(worker):
            if not some.prompts or some.is_stolen:
                break
            lines[worker] |= {order[each.ticket][0] for each in some.prompts}
    both = lines[0] & lines[1]
    assert len(both) <= 3
    assert min(map(len, lines)) >= 7
    assert router.duplicated_tokens <= 3 * 8 * BLOCK


def test_a_beginning_that_all_have_goes_to_whoever_has_least() -> None:
    router = router_with("m", "m")
    for ticket in range(100):
        router.add(prompt(ticket, 7, 7, 1000 + ticket))
    assert router.duplicated_tokens == 2 * BLOCK
    assert len(taken(router, 0)) + len(taken(router, 0)) >= 30


def test_a_head_is_known_for_as_long_as_it_is_expected() -> None:
    router = router_with("m", "m")
    head = np.repeat(np.array([7, 7], dtype=np.int32), BLOCK)
    router.expect("m", head, more=True)
    router.expect("m", head, more=True)
    for ticket in range(2):
        router.add(prompt(ticket, 7, 7, ticket))
    [first], [second] = taken(router, 0), taken(router, 1)
    for ticket in (first, second):
        router.answered(ticket)
    router.add(prompt(5, 7, 7, 5))
    assert router.duplicated_tokens == 2 * BLOCK
    router.answered(5)
    router.expect("m", head, more=False)
    router.add(prompt(6, 7, 7, 6))
    assert router.duplicated_tokens == 2 * BLOCK  # nobody has it


def test_who_follows_goes_where_the_answer_was_given() -> None:
    router = router_with("m", "m")
    for ticket in range(10):
        router.add(prompt(ticket, ticket, feeds=1))
    at = {ticket: worker for worker in (0, 1) for ticket in taken(router, worker)}
    assert set(at.values()) == {0, 1}
    for ticket in at:
        router.answered(ticket)
    for ticket in reversed(range(10)):
        router.add(prompt(10 + ticket, ticket, 99, follows=ticket))
    found = {
        ticket: worker
        for worker in (0, 1)
        for ticket in [each.ticket for each in router.take(worker).prompts]
    }
    assert found == {10 + ticket: worker for ticket, worker in at.items()}
    for ticket, worker in at.items():
        assert router.forget(ticket) == worker
        assert router.forget(ticket) is None


def test_a_worker_without_work_takes_what_waits_for_another() -> None:
    router = router_with("m", "")
    for ticket in range(100):
        router.add(prompt(ticket, ticket))
    assert len(taken(router, 0)) == 50
    router.settle(1, ["m"])
    portion = router.take(1)
    assert portion.is_stolen
    assert len(portion.prompts) == 25  # half of the half that both have then
    assert not taken(router, 0)
    for ticket in range(100):
        router.answered(ticket)


def test_work_that_costs_more_to_begin_anew_is_not_taken() -> None:
    router = router_with("m", "")
    for ticket in range(18):
        router.add(prompt(ticket, *([7] * 40), ticket))
    begun = taken(router, 0)
    assert 16 <= len(begun) < 18
    for ticket in begun[:14]:
        router.answered(ticket)
    router.settle(1, ["m"])
    assert not router.take(1).prompts  # 4 prompts' drawing is less than 40 blocks


def test_prompts_wait_for_a_worker_that_has_their_model() -> None:
    router = Router(1)
    router.add(prompt(0, 1, model="a"))
    assert router.missing == {"a"}
    router.settle(0, ["b"])
    assert router.missing == {"a"}
    router.settle(0, ["a"])
    assert not router.missing
    assert taken(router, 0) == [0]
    router.settle(0, ["b"])  # it has begun it, and changes its model
    assert router.missing == {"a"}


def killers(router: Router, prompts: int, deadly: int) -> tuple[list[int], int]:
    """What is given up, and how many workers died, where one prompt kills who begins it."""
    answered: set[int] = set()
    given_up: list[int] = []
    deaths = 0
    for worker in itertools.cycle((0, 1)):
        if len(answered) + len(given_up) == prompts:
            return given_up, deaths
        some = taken(router, worker)
        if deadly in some:
            deaths += 1
            given_up += [each.ticket for each in router.died(worker)]
            router.settle(worker, ["m"])
            continue
        for ticket in some:
            assert router.answered(ticket) is not None
            assert router.answered(ticket) is None
            answered.add(ticket)
    raise AssertionError("an endless cycle ended")


@given(prompts=st.integers(1, 200), seed=st.integers(0, 99))
def test_only_the_prompt_that_kills_is_given_up(prompts: int, seed: int) -> None:
    router = router_with("m", "m")
    for ticket in range(prompts):
        router.add(prompt(ticket, ticket % 7, ticket))
    deadly = seed % prompts
    assert killers(router, prompts, deadly) == ([deadly], 3)


@given(seed=st.integers(0, 10_000), workers=st.integers(1, 4))
def test_every_prompt_is_answered_once_whatever_happens(seed: int, workers: int) -> None:
    draw = Random(seed)
    router = Router(workers)
    tickets, begun = itertools.count(), {worker: [] for worker in range(workers)}
    ended: list[int] = []
    asked = 0
    for _ in range(60):
        worker, what = draw.randrange(workers), draw.random()
        if what < 0.5:
            ticket, asked = next(tickets), asked + 1
            blocks = [draw.randrange(3) for _ in range(draw.randrange(5))]
            router.add(prompt(ticket, *blocks, model=draw.choice("ab"), feeds=draw.randrange(2)))
        elif what < 0.7:
            begun[worker] += taken(router, worker)
        elif what < 0.85 and begun[worker]:
            ticket = begun[worker].pop(draw.randrange(len(begun[worker])))
            ended += [ticket] if router.answered(ticket) is not None else []
        elif what < 0.93:
            models = draw.choice((["a"], ["b"], ["a", "b"]))
            router.settle(worker, models)
        else:
            ended += [each.ticket for each in router.died(worker)]
            begun[worker] = []
    for worker in range(workers):
        router.settle(worker, ["a", "b"])
    for _ in range(500):
        for worker in range(workers):
            begun[worker] += taken(router, worker)
            for ticket in begun[worker]:
                ended += [ticket] if router.answered(ticket) is not None else []
            begun[worker] = []
    assert sorted(ended) == list(range(asked))
