"""How a cluster's processors are divided among the workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchpipe.errors import ConfigError

# Of a worker with one CPU. With twice as many, two of them slow each other by 12 % through the
# cache that they share, with these by 5 %; one alone is as fast (25M parameters, 32 MB of cache).
ONE_CPU_STEP_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster has."""

    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Slot:
    """What each worker has to itself."""

    device: str  # its kind
    cpus: int
    gpus: int  # as many as share a model, or none
    neighbours: int  # workers that may share the memory of its device, itself among them

    @property
    def step_tokens(self) -> int | None:
        """Most tokens in one of its forward passes; None: as many as in a run without workers."""
        return ONE_CPU_STEP_TOKENS if self.device == "cpu" and self.cpus == 1 else None


def slot_for(nodes: Sequence[Node], workers: int, device: str, each: int = 1) -> Slot:
    """GPUs for each worker where there are any, else as many CPUs as all of them can have.

    Args:
        nodes: of the cluster
        workers: so many slots must fit, none on two nodes
        device: ``auto``, ``cpu`` or ``cuda``
        each: GPUs that share one model

    Raises:
        ConfigError: the cluster has less
    """
    gpus = sum(node.gpus for node in nodes)
    if device == "cuda" and not gpus:
        raise ConfigError("--device cuda: no node of the Ray cluster has a GPU; use --device cpu")
    if gpus and device != "cpu":
        fitting = sum(node.gpus // each for node in nodes)
        if workers > fitting:
            needs = "needs one" if each == 1 else f"needs {each} of one node (--tensor-parallel)"
            fewer = f"give --workers {fitting}, or " if fitting else "add nodes, or give "
            raise ConfigError(
                f"--workers {workers}: the Ray cluster has {_counted(gpus, 'GPU')} and each worker "
                f"{needs}; {fewer}--device cpu"
            )
        beside = min(node.cpus * each // node.gpus for node in nodes if node.gpus)
        return Slot("cuda", min(1, beside), each, 1)
    cpus = sum(node.cpus for node in nodes)
    if workers > cpus:
        raise ConfigError(
            f"--workers {workers}: the Ray cluster has {_counted(cpus, 'CPU')} and each worker "
            f"needs one; give --workers {max(1, cpus)} or add nodes"
        )
    share = cpus // workers
    while sum(node.cpus // share for node in nodes) < workers:
        share -= 1
    return Slot("cpu", share, 0, min(workers, max(node.cpus // share for node in nodes)))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
