"""How a cluster's processors are divided among workers."""

from __future__ import annotations

import pytest

from batchpipe.errors import ConfigError
from batchpipe.integrations.ray.slots import Node, Slot, slot_for


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "slot"),
    [
        ([Node(8, 0)], 2, "auto", Slot("cpu", 4, 0, 2)),
        ([Node(8, 0)], 3, "cpu", Slot("cpu", 2, 0, 3)),
        ([Node(4, 0), Node(4, 0)], 2, "auto", Slot("cpu", 4, 0, 1)),
        ([Node(5, 0), Node(3, 0)], 3, "auto", Slot("cpu", 2, 0, 2)),
        ([Node(16, 2), Node(16, 2), Node(4, 0)], 3, "auto", Slot("cuda", 1, 1, 1)),
        ([Node(16, 2)], 4, "cpu", Slot("cpu", 4, 0, 4)),
        ([Node(1, 2)], 2, "cuda", Slot("cuda", 0, 1, 1)),
    ],
)
def test_workers_have_a_gpu_or_an_equal_part_of_the_cpus(
    nodes: list[Node], workers: int, device: str, slot: Slot
) -> None:
    assert slot_for(nodes, workers, device) == slot


def test_a_worker_with_one_cpu_takes_small_steps() -> None:
    assert Slot("cpu", 1, 0, 2).step_tokens == 512
    assert Slot("cpu", 2, 0, 2).step_tokens is None
    assert Slot("cuda", 1, 1, 1).step_tokens is None


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "words"),
    [
        ([Node(16, 2)], 3, "auto", ("--workers 3", "2 GPUs", "give --workers 2")),
        ([Node(16, 1)], 2, "cuda", ("--workers 2", "1 GPU and", "--device cpu")),
        ([Node(4, 0)], 5, "auto", ("--workers 5", "4 CPUs", "--workers 4")),
        ([Node(4, 0)], 1, "cuda", ("--device cuda", "no node", "--device cpu")),
    ],
)
def test_a_cluster_with_less_is_refused(
    nodes: list[Node], workers: int, device: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as refused:
        slot_for(nodes, workers, device)
    for word in words:
        assert word in str(refused.value)


def test_gpus_that_share_a_model_are_of_one_node() -> None:
    nodes = [Node(16, 4), Node(16, 3), Node(16, 1)]
    assert slot_for(nodes, 3, "auto", 2) == Slot("cuda", 1, 2, 1)
    with pytest.raises(ConfigError) as refused:
        slot_for(nodes, 4, "auto", 2)
    for word in ("8 GPUs", "needs 2 of one node (--tensor-parallel)", "give --workers 3"):
        assert word in str(refused.value)
