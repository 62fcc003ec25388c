"""Calls on threads: each is answered once, none holds up the end."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpipe.workflow.operators.calls import ThreadedCalls
from batchpipe.workflow.outcome import Outcome


def collected(calls: ThreadedCalls[int]) -> dict[int, Outcome]:
    found: dict[int, Outcome] = {}
    while calls.unfinished:
        found |= dict(calls.finished(None))
    return found


def test_every_call_is_answered_by_its_key() -> None:
    with ThreadedCalls[int](3) as calls:
        for key in range(6):
            calls.submit(key, lambda key=key: Outcome({"doubled": 2 * key}))  # type: ignore[misc]
        found = collected(calls)
    assert {key: outcome.values["doubled"] for key, outcome in found.items()} == {
        key: 2 * key for key in range(6)
    }


@settings(max_examples=30)
@given(limit=st.integers(1, 8), plan=st.lists(st.integers(0, 5), max_size=80))
def test_under_load_nothing_is_lost_nothing_twice_and_never_more_than_the_limit(
    limit: int, plan: list[int]
) -> None:
    at_once, most, counting = 0, 0, threading.Lock()

    def call(key: int, kind: int) -> Outcome:
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        time.sleep(random.random() * kind / 2000)
        with counting:
            at_once -= 1
        if kind == 5:
            raise ValueError(f"call {key}")
        return Outcome({"key": key})

    answered: Counter[int] = Counter()
    with ThreadedCalls[int](limit) as calls:
        for key, kind in enumerate(plan):
            while calls.room == 0:
                take(calls.finished(None), plan, answered)
            assert calls.unfinished < 2 * limit
            calls.submit(key, lambda key=key, kind=kind: call(key, kind))  # type: ignore[misc]
            take(calls.finished(), plan, answered)
        while calls.unfinished:
            take(calls.finished(None), plan, answered)
    assert answered == Counter(range(len(plan)))
    assert most <= limit


def take(found: list[tuple[int, Outcome]], plan: list[int], answered: Counter[int]) -> None:
    for key, outcome in found:
        answered[key] += 1
        if plan[key] == 5:
            assert outcome.error == f"ValueError: call {key}"
        else:
            assert outcome.values == {"key": key}


@pytest.mark.parametrize("error", [KeyError("name"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_is_that_calls_error_and_the_thread_lives_on(error: BaseException) -> None:
    def fail() -> Outcome:
        raise error

    with ThreadedCalls[int](1) as calls:
        calls.submit(0, fail)
        calls.submit(1, Outcome)
        found = collected(calls)
    assert str(found[0].error).startswith(type(error).__name__)
    assert found[1].error is None


def test_one_call_answers_a_batch_of_keys() -> None:
    with ThreadedCalls[str](2) as calls:
        calls.submit_batch(["a", "b"], lambda: [Outcome({"n": 1}), Outcome(error="no")])
        calls.submit_batch(["c", "d"], lambda: [Outcome()])  # a mistake of ours
        found: dict[str, Any] = {}
        while calls.unfinished:
            found |= dict(calls.finished(None))
    assert found["a"].values == {"n": 1}
    assert found["b"].error == "no"
    assert found["c"].error == found["d"].error == "AssertionError: (1, 2)"


def test_nothing_under_way_is_not_waited_for() -> None:
    with ThreadedCalls[int](2) as calls:
        assert calls.finished(None) == []


def test_a_call_under_way_is_waited_for_as_long_as_asked() -> None:
    release = threading.Event()
    with ThreadedCalls[int](2) as calls:
        calls.submit(0, lambda: Outcome({"released": release.wait()}))
        assert calls.finished() == []
        assert calls.finished(0.01) == []
        release.set()
        [(key, outcome)] = calls.finished(None)
    assert (key, outcome.values) == (0, {"released": True})


def test_outcomes_that_nobody_takes_leave_no_room() -> None:
    with ThreadedCalls[int](2) as calls:
        for key in range(4):
            assert calls.room == 4 - key
            calls.submit(key, Outcome)
        assert calls.room == 0
        calls.finished(None)
        assert calls.room > 0


def test_the_end_drops_what_has_not_begun_and_abandons_what_does_not_end() -> None:
    release, begun = threading.Event(), []

    def hang(key: int) -> Outcome:
        begun.append(key)
        release.wait()
        return Outcome()

    calls = ThreadedCalls[int](2)
    for key in range(4):
        calls.submit(key, lambda key=key: hang(key))  # type: ignore[misc]
    while len(begun) < 2:
        time.sleep(0.001)
    calls.close(grace_seconds=0.01)
    calls.close()  # once is enough
    assert calls.room == 0
    assert calls.finished(None) == []  # they never will be
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("call-"):
            thread.join()
    assert sorted(begun) == [0, 1]


def test_threads_are_gone_after_the_end() -> None:
    with ThreadedCalls[int](4, name="gone") as calls:
        calls.submit(0, Outcome)
        calls.finished(None)
        assert sum(thread.name.startswith("gone") for thread in threading.enumerate()) == 1
    assert not any(thread.name.startswith("gone") for thread in threading.enumerate())


def test_seconds_are_those_of_the_call_and_not_of_waiting_for_a_thread() -> None:
    with ThreadedCalls[int](1) as calls:
        calls.submit(0, lambda: Outcome({"slept": time.sleep(0.2)}))
        calls.submit(1, Outcome)
        found = collected(calls)
    assert found[0].seconds >= 0.2
    assert found[1].seconds < found[0].seconds
