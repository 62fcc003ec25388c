"""A Ray Dataset through batchpipe's actors, window by window. See `batchpipe.ray`."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from batchpipe.api.annotate import annotate
from batchpipe.api.keywords import ModelKeywords, SamplingKeywords, check_names
from batchpipe.api.llm import LLM
from batchpipe.api.sampling import SamplingParams
from batchpipe.errors import ConfigError
from batchpipe.rows.words import shown

NOT_HERE = ("frame", "model", "run_dir", "progress", "sampling")  # of `annotate`


class Annotator:
    """One model in an actor, which answers a window at a time."""

    def __init__(
        self, model: str, threads: int | None, of_model: dict[str, Any], asked: dict[str, Any]
    ) -> None:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self._llm = LLM(model, **of_model)
        self._asked = asked

    def __call__(self, window: pa.Table) -> pa.Table:
        """The window with its answers: all of its rows are one plan."""
        return annotate(window, model=self._llm, **self._asked)


def annotated(
    dataset: Any,  # ray.data.Dataset
    model: str,
    workers: int,
    cpus: int,
    window_rows: int,
    options: dict[str, Any],
) -> Any:  # ray.data.Dataset
    """The dataset with a column more. Its options are checked now, all else happens as it is read.

    Raises:
        ConfigError: an option cannot be
        TypeError: an unknown keyword
    """
    for name, value in (("workers", workers), ("cpus", cpus), ("window_rows", window_rows)):
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} is {shown(value)}; it must be a whole number of 1 or more")
    own = [name for name in inspect.signature(annotate).parameters if name not in NOT_HERE]
    of_model = ModelKeywords.__annotations__
    check_names("annotate", options, [*own, *SamplingKeywords.__annotations__, *of_model])
    asked = {name: value for name, value in options.items() if name not in of_model}
    SamplingParams(**{n: v for n, v in asked.items() if n in SamplingKeywords.__annotations__})
    loaded = {name: value for name, value in options.items() if name in of_model}
    gpus = loaded.get("device", "auto") != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1
    loaded["device"] = "cuda" if gpus else "cpu"
    name = str(Path(model).absolute()) if Path(model).is_dir() else os.fspath(model)
    return dataset.map_batches(
        Annotator,
        fn_constructor_args=(name, None if gpus else cpus, loaded, asked),
        batch_size=window_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers),
        **({"num_gpus": 1} if gpus else {"num_cpus": cpus}),
    )
