"""A Ray cluster of three nodes on this machine, with one CPU each, that all tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import write_lines

import batchpipe.integrations.ray  # noqa: F401  it tells Ray to report to nobody

sys.path.insert(0, str(Path(__file__).parents[3] / "jobs" / "bench"))

from distributed_real import workers_in

pytest.importorskip("ray")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head and two more nodes; nobody is connected to it."""
    from ray.cluster_utils import Cluster

    # A node that is gone is missed soon.
    quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick},
    )
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 rows below six prefixes: duplicates, samples and drawn answers among them."""
    heads = [f"{letter * 40} and then " for letter in "abcdef"]
    rows = [
        {
            "request_id": f"r{number}",
            "prompt": f"{heads[number % 6]}{number // 2}",
            "temperature": float(number % 3 == 0),
            "n": 2 if number % 9 == 0 else 1,
        }
        for number in range(120)
    ]
    return write_lines(tmp_path_factory.mktemp("job") / "job.jsonl", rows)


@pytest.fixture
def workers_of(cluster: Any) -> Callable[[], list[int]]:
    """The process ids of the workers that answer prompts now."""

    return partial(workers_in, cluster)
