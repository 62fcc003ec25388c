"""A workflow's models as options of jobs, and whether each of them is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.job.tensor_parallel import check_sharing
from batchpipe.workflow.steps import Flow


def check_models(flow: Flow) -> None:
    """Every model is there and can be served, as its configuration says; no weights are read.

    Raises:
        ConfigError: one is not, or cannot
    """
    from batchpipe.job.language import load_config

    options = model_options(flow)
    _check_alike(flow, options)
    for name, each in options.items():
        with placed(flow, name):
            check_sharing(each)
            load_config(each)


def model_options(flow: Flow) -> dict[str, JobOptions]:
    """How each model is loaded, as the options of a job without rows."""
    return {
        name: JobOptions(
            input="",
            model=choice.model,
            **{n: v for n, v in choice.options.items() if n in JobOptions.__dataclass_fields__},
        )
        for name, choice in flow.models.items()
    }


@contextmanager
def placed(flow: Flow, name: str) -> Iterator[None]:
    """What is found wrong within is told of this model."""
    try:
        yield
    except ConfigError as error:
        error.args = (f"{flow.model_place(name)}: {error}",)
        raise


def _check_alike(flow: Flow, options: Mapping[str, JobOptions]) -> None:
    """Models that are divided, and may be in memory together, are divided by the same processes."""
    divided = {n: each.tensor_parallel for n, each in options.items() if each.tensor_parallel > 1}
    for name, devices in divided.items():
        first = next(iter(divided))
        if devices != divided[first]:
            raise ConfigError(
                f"{flow.model_place(name)}: tensor_parallel {devices}, and model {first} has "
                f"{divided[first]}: a workflow's models are divided among equally many devices, or "
                f"not at all; give both the same"
            )
