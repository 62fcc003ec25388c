"""A workflow's models: found before anything runs, loaded when their turn comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from batchpipe.config import JobOptions, RunOptions
from batchpipe.errors import ConfigError
from batchpipe.job.collection import collection_paused
from batchpipe.job.kv_memory import CPU_SHARE, free_bytes
from batchpipe.job.language import Language, load_config, load_language
from batchpipe.planner.request import Constraint
from batchpipe.running.engines import Backend, connect
from batchpipe.workflow.lowering.model_options import check_models, model_options, placed
from batchpipe.workflow.running.residents import LiveModel
from batchpipe.workflow.steps import Flow

CUDA_SHARE = 0.95  # of the free memory; what is left is for the device's own
CPU_MEMORY_SHARE = 0.8
ON_WORKERS = "batchpipe.integrations.ray.residents.opening"


@dataclass(frozen=True, slots=True, eq=False)
class FoundModel:
    """A model that is there and can be served; its weights are not read yet."""

    options: JobOptions
    config: Any  # transformers PreTrainedConfig
    language: Language
    backend: Backend
    device: str  # a kind of device
    dtype: str | None


def resolved(flow: Flow, overrides: Mapping[str, Any], model: str | None) -> Flow:
    """The workflow whose models have the command's options where they say nothing themselves.

    Raises:
        ConfigError: ``model`` is to take the place of the workflow's one model, and it has several
    """
    choices = dict(flow.models)
    if model is not None:
        if len(choices) != 1:
            raise ConfigError(
                f"-m {model}: {flow.source} has {len(choices)} models and -m can only take the "
                f"place of one; name it in the workflow"
            )
        choices = {name: replace(choice, model=model) for name, choice in choices.items()}
    return replace(
        flow,
        models={
            name: replace(choice, options={**overrides, **choice.options})
            for name, choice in choices.items()
        },
    )


def find_models(
    flow: Flow, workers: int | None = None, ray_address: str | None = None
) -> dict[str, FoundModel]:
    """Every model is there and can be served, by Ray workers where there are to be any.

    No weights are read.

    Raises:
        ConfigError: one is not, or cannot
    """
    check_models(flow)  # all of them, before a tokenizer loads
    options = model_options(flow)
    run_options = RunOptions(out="", workers=workers, ray_address=ray_address)
    found: dict[str, FoundModel] = {}
    for name, each in options.items():
        step_tokens = flow.models[name].options.get("step_tokens")
        backend = _connected(flow, name, each, replace(run_options, step_tokens=step_tokens))
        with placed(flow, name):
            found[name] = _found(each, backend)
    return found


def _connected(flow: Flow, name: str, options: JobOptions, run_options: RunOptions) -> Backend:
    if run_options.workers is not None:  # what is wrong with the workers is no model's fault
        return connect(options, run_options)
    with placed(flow, name):
        return connect(options, run_options)


def _found(options: JobOptions, backend: Backend) -> FoundModel:
    config = load_config(options)
    device, dtype = backend.computing(config)
    language = load_language(options, config)
    backend.target(language, dtype)  # what cannot be served is told now
    return FoundModel(backend.options, config, language, backend, device, dtype)


class Opening:
    """Loads models, each with the forms that its answers will have to have."""

    def __init__(
        self, found: Mapping[str, FoundModel], constraints: Sequence[Constraint], groups: int
    ) -> None:
        self._found, self._constraints, self._groups = found, constraints, groups

    def __call__(self, name: str, share: float) -> LiveModel:
        """The model is in memory and has this share of what is free for its KV.

        Raises:
            ConfigError: the device has no room for it
            DeviceLost: the device fails for good
        """
        model = self._found[name]
        with collection_paused():
            from batchpipe.running.live import open_live  # torch, from here on
            from batchpipe.running.own_engine import OwnBackend

            assert isinstance(model.backend, OwnBackend), "workflows run on our own engine"
            return open_live(
                model.backend,
                model.language,
                model.dtype,
                constraints=self._constraints,
                groups=max(1, self._groups),
                memory_share=share,
            )


def on_workers() -> Any:
    """What knows models on Ray workers; Ray is there, for `find_models` has asked it."""
    with collection_paused():
        return import_module(ON_WORKERS)


def memory_bytes(device: str) -> int:
    """What models may take on this kind of device now."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0] * CUDA_SHARE)
    return int(free_bytes(device) / CPU_SHARE * CPU_MEMORY_SHARE)


def shown_name(model: str) -> str:
    """The model as a person calls it: a directory by its last name."""
    return Path(model).name if Path(model).is_dir() else model
