"""A Ray Dataset through batchpipe's actors."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from other_ranks import ranks_of

import batchpipe as bp

# Ray Data warns of its own defaults.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def connected(cluster: Any) -> Iterator[Any]:
    """The package ray, in a process that is part of the cluster."""
    import ray

    ray.init(cluster.address, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_a_dataset_is_answered_as_a_dataframe_is(connected: Any, model: Path) -> None:
    table = pa.table({"prompt": [f"{'abc' * 20}{number}" for number in range(12)]})
    asked = {"max_tokens": 6, "details": True}
    expected = bp.annotate(table, model=str(model), **asked)
    dataset = connected.data.from_arrow(table).repartition(2)
    answered = bp.ray.annotate(dataset, model=str(model), window_rows=6, **asked)
    found = pa.Table.from_pylist(answered.take_all()).sort_by("prompt")
    expected = expected.sort_by("prompt")
    assert found["output"].to_pylist() == expected["output"].to_pylist()
    assert found["output_status"].to_pylist() == ["success"] * 12
    assert max(found["output_cached_tokens"].to_pylist()) >= 60  # rows of a window share


def test_wrong_options_are_told_at_once(connected: Any, model: Path) -> None:
    dataset = connected.data.range(1)
    with pytest.raises(TypeError, match="did you mean max_tokens"):
        bp.ray.annotate(dataset, model=str(model), max_token=3)
    with pytest.raises(bp.ConfigError, match="window_rows is 0"):
        bp.ray.annotate(dataset, model=str(model), window_rows=0)
    with pytest.raises(bp.ConfigError, match="top_p is 2"):
        bp.ray.annotate(dataset, model=str(model), top_p=2)


def test_actors_may_have_a_divided_model(connected: Any, model: Path) -> None:
    table = pa.table({"prompt": [f"{'abc' * 20}{number}" for number in range(6)]})
    expected = bp.annotate(table, model=str(model), max_tokens=6)
    dataset = connected.data.from_arrow(table)
    answered = bp.ray.annotate(dataset, model=str(model), max_tokens=6, tensor_parallel=2)
    found = pa.Table.from_pylist(answered.take_all()).sort_by("prompt")
    assert found["output"].to_pylist() == expected.sort_by("prompt")["output"].to_pylist()
    with pytest.raises(bp.ConfigError, match="tensor_parallel 2: quantize int8"):
        bp.ray.annotate(dataset, model=str(model), tensor_parallel=2, quantize="int8")
    with pytest.raises(bp.ConfigError, match="tensor_parallel is 0"):
        bp.ray.annotate(dataset, model=str(model), tensor_parallel=0)
    with pytest.raises(bp.ConfigError, match="no node of the Ray cluster has a GPU"):
        bp.ray.annotate(dataset, model=str(model), tensor_parallel=2, device="cuda")


def test_a_dead_rank_of_an_actor_is_replaced(model: Path) -> None:
    from batchpipe.integrations.ray.dataset import Annotator

    shared = {"device": "cpu", "kv_memory": "20MB", "tensor_parallel": 2}
    annotator = Annotator(str(model), None, shared, {"max_tokens": 6})
    window = pa.table({"prompt": ["Question", "Answer"]})
    expected = annotator(window)
    [rank] = ranks_of(os.getpid())
    os.kill(rank, signal.SIGKILL)
    assert annotator(window) == expected
    del annotator
    gc.collect()
    assert not ranks_of(os.getpid())


def test_ray_is_loaded_by_its_use_alone() -> None:
    check = "import batchpipe as bp, sys; bp.ray.annotate; print('ray' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
