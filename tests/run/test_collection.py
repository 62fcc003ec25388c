"""Garbage collection is paused while a run starts, and is back afterwards whatever happens."""

from __future__ import annotations

import gc

import pytest

from batchpipe.run.collection import collection_paused


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()
    gc.enable()


def test_no_cycle_is_looked_for_inside_and_what_lives_is_frozen() -> None:
    with collection_paused():
        assert not gc.isenabled()
        alive = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(alive)


def test_a_failure_inside_leaves_collection_on() -> None:
    def fail() -> None:
        with collection_paused():
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert gc.isenabled()


def test_who_has_switched_collection_off_keeps_it_off() -> None:
    gc.disable()
    with collection_paused():
        pass
    assert not gc.isenabled()
