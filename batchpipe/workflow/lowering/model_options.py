"""A workflow's models as options of jobs, and whether each of them is there."""

from __future__ import annotations

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.workflow.steps import Flow


def check_models(flow: Flow) -> None:
    """Every model is there and can be served, as its configuration says; no weights are read.

    Raises:
        ConfigError: one is not, or cannot
    """
    from batchpipe.job.language import load_config

    for name, options in model_options(flow).items():
        try:
            load_config(options)
        except ConfigError as error:
            error.args = (f"model {name} of {flow.source}: {error}",)
            raise


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
