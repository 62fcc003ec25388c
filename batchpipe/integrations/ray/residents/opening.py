"""A workflow's models on a cluster: what a worker has room for, and the crew that has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch

from batchpipe.errors import ConfigError
from batchpipe.integrations.ray.backend import RayBackend
from batchpipe.integrations.ray.residents.messages import HostedModel, HostSetup
from batchpipe.integrations.ray.residents.residents import RayResidents
from batchpipe.planner.query.planning import Hardware, QueryPlan
from batchpipe.planner.request import Constraint
from batchpipe.workflow.running.models import FoundModel, memory_bytes
from batchpipe.workflow.running.residents import Residents


def worker_bytes(found: Mapping[str, FoundModel]) -> int:
    """What models may take in the memory of one worker now.

    Raises:
        ConfigError: some models are for one kind of device and some for another
    """
    backend = _backend(found)
    device, neighbours = backend.slot.device, backend.slot.neighbours
    if device == "cpu" or torch.cuda.is_available():
        return memory_bytes(device) // neighbours
    ask = ray.remote(memory_bytes).options(num_gpus=1)  # no such device is here
    answered: int = ray.get(ask.remote(device))
    return answered // neighbours


def residents_of(
    found: Mapping[str, FoundModel],
    hardware: Hardware,
    plan: QueryPlan,
    constraints: Sequence[Constraint],
    groups: int,
) -> Residents:
    """The models on workers, once they are brought there.

    Args:
        found: every model of the workflow, by its name there
        hardware: of each worker, and how many they are
        plan: the workflow's
        constraints: of all answers
        groups: of prompts whose answers are alike in length
    """
    backend = _backend(found)
    models = {name: _hosted(model) for name, model in found.items()}
    setup = HostSetup(
        models=models,
        threads=backend.slot.cpus,
        memory_share=1 / backend.slot.neighbours,
        constraints=tuple(constraints),
        groups=max(1, groups),
    )
    work = dict.fromkeys(found, 0.0)
    for stage in plan.placement.stages:
        work[stage.model] += stage.seconds
    return RayResidents(setup, backend.slot, hardware, work, backend.cluster)


def _hosted(model: FoundModel) -> HostedModel:
    backend: Any = model.backend
    return HostedModel(backend.worker_options, model.dtype, backend.step_tokens)


def _backend(found: Mapping[str, FoundModel]) -> RayBackend:
    """That of the first model, which joined the cluster; its workers have what the widest needs."""
    backends = [each for m in found.values() if isinstance(each := m.backend, RayBackend)]
    first, slots = backends[0], [each.slot for each in backends]
    if len({slot.device for slot in slots}) > 1:
        devices = {name: model.device for name, model in found.items()}
        raise ConfigError(
            f"--workers {first.workers}: the models are for several kinds of device ({devices}) "
            f"and each worker has one; give all of them the same device"
        )
    return replace(first, slot=max(slots, key=lambda slot: slot.gpus))
