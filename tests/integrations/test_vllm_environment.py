"""What vLLM is told of the machine before it is loaded; vLLM itself is not needed."""

from __future__ import annotations

import os

import pytest

from batchpipe.integrations.vllm import environment

BOUND = "VLLM_CPU_OMP_THREADS_BIND"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be asked for here")
def test_every_core_that_is_ours_computes() -> None:
    assert {int(core) for core in environment()[BOUND].split(",")} == os.sched_getaffinity(0)


def test_nothing_is_bound_where_cores_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert BOUND not in environment()
