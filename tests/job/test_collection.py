"""Garbage collection is paused while a run starts, and is back afterwards whatever happens."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib.util import find_spec

import pytest

from batchpipe.job.collection import collection_paused, own_the_process


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()
    gc.enable()


def test_no_cycle_is_looked_for_inside_and_what_lives_is_frozen() -> None:
    own_the_process()
    with collection_paused():
        assert not gc.isenabled()
        alive = [[] for _ in range(1000)]
    assert gc.isenabled()
    if find_spec("triton") is None:
        assert gc.get_freeze_count() >= len(alive)


def test_in_a_library_nothing_is_frozen() -> None:
    gc.unfreeze()
    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_triton_finds_nothing_to_report_at_the_end() -> None:
    code = (
        "import triton\n"
        "from batchpipe.job.collection import collection_paused, own_the_process\n"
        "own_the_process()\n"
        "with collection_paused():\n"
        "    import torch._dynamo\n"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0
    assert "leak" not in ran.stderr


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
