"""A Ray Dataset through batchpipe's actors, window by window. See `batchpipe.ray`."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.data import ActorPoolStrategy

from batchpipe.api.annotate import annotate
from batchpipe.api.keywords import ModelKeywords, SamplingKeywords, check_names, checked
from batchpipe.api.llm import LLM
from batchpipe.api.sampling import SamplingParams
from batchpipe.api.sentences import python_words
from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError, DeviceLost
from batchpipe.integrations.ray.cluster import join
from batchpipe.integrations.ray.slots import slot_for
from batchpipe.job.tensor_parallel import check_sharing
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
        self._model, self._of_model, self._asked = model, of_model, asked
        self._llm = LLM(model, **of_model)

    def __call__(self, window: pa.Table) -> pa.Table:
        """The window with its answers: all of its rows are one plan."""
        try:
            return annotate(window, model=self._llm, **self._asked)
        except DeviceLost:  # a process that shared the model, say: once more with new ones
            self._llm.close()
            self._llm = LLM(self._model, **self._of_model)
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
    name = str(Path(model).absolute()) if Path(model).is_dir() else os.fspath(model)
    loaded = checked({name: value for name, value in options.items() if name in of_model})
    gpus = _gpus(loaded)
    loaded["device"] = "cuda" if gpus else "cpu"
    return dataset.map_batches(
        Annotator,
        fn_constructor_args=(name, None if gpus else cpus, loaded, asked),
        batch_size=window_rows,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers),
        **({"num_gpus": gpus} if gpus else {"num_cpus": cpus}),
    )


def _gpus(loaded: dict[str, Any]) -> int:
    """So many each actor has, all of one node; 0 where it has processors."""
    asked = {name: loaded[name] for name in ("quantize", "tensor_parallel") if name in loaded}
    options = JobOptions(input="", model="", **asked)
    with python_words():
        check_sharing(options)
        nodes, device = join(None).nodes, loaded.get("device", "auto")
        return slot_for(nodes, 1, device, options.tensor_parallel).gpus
