"""batchpipe: a table of prompts answered by a language model as one planned offline batch.

    import batchpipe as bp

`LLM` answers lists of prompts, `annotate` adds a column of answers to a dataframe, `score` tells
how likely given texts are, `run` and `plan` are the commands of the same names, a `Workflow` is a
job of several steps, and `ray.annotate` is for Ray Datasets. Each of these names is loaded when it
is first used, and torch when a model is first opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpipe import ray as ray
    from batchpipe.api.annotate import annotate
    from batchpipe.api.jobs import plan, run
    from batchpipe.api.llm import LLM
    from batchpipe.api.logprobs import Logprob, TokenLogprobs
    from batchpipe.api.outputs import CompletionOutput, RequestOutput
    from batchpipe.api.sampling import SamplingParams
    from batchpipe.api.score import score
    from batchpipe.api.score_outputs import ScoreOutput
    from batchpipe.errors import (
        BatchpipeError,
        ConfigError,
        FailedRowsWarning,
        RowsFailed,
        StoppedEarly,
    )
    from batchpipe.explain.forecast_text import Preview
    from batchpipe.running.progress import Progress
    from batchpipe.running.summary import Summary
    from batchpipe.workflow.builder import Workflow

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "BatchpipeError",
    "CompletionOutput",
    "ConfigError",
    "FailedRowsWarning",
    "Logprob",
    "Preview",
    "Progress",
    "RequestOutput",
    "RowsFailed",
    "SamplingParams",
    "ScoreOutput",
    "StoppedEarly",
    "Summary",
    "TokenLogprobs",
    "Workflow",
    "annotate",
    "plan",
    "run",
    "score",
]

_MODULES = {
    "LLM": "batchpipe.api.llm",
    "BatchpipeError": "batchpipe.errors",
    "CompletionOutput": "batchpipe.api.outputs",
    "ConfigError": "batchpipe.errors",
    "FailedRowsWarning": "batchpipe.errors",
    "Logprob": "batchpipe.api.logprobs",
    "Preview": "batchpipe.explain.forecast_text",
    "Progress": "batchpipe.running.progress",
    "RequestOutput": "batchpipe.api.outputs",
    "RowsFailed": "batchpipe.errors",
    "SamplingParams": "batchpipe.api.sampling",
    "ScoreOutput": "batchpipe.api.score_outputs",
    "StoppedEarly": "batchpipe.errors",
    "Summary": "batchpipe.running.summary",
    "TokenLogprobs": "batchpipe.api.logprobs",
    "Workflow": "batchpipe.workflow.builder",
    "annotate": "batchpipe.api.annotate",
    "plan": "batchpipe.api.jobs",
    "run": "batchpipe.api.jobs",
    "score": "batchpipe.api.score",
}


def __getattr__(name: str) -> Any:
    if name == "ray":
        return import_module("batchpipe.ray")
    if name not in _MODULES:
        raise AttributeError(f"module 'batchpipe' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
