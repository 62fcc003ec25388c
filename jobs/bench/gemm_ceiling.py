"""The matrix products of a run alone, one after the other: what their kernels give at most.

    python jobs/bench/gemm_ceiling.py TIMES.json float32

TIMES.json is what `timed_run.py` wrote. Every product is computed with the rows that it had there,
by the engine's own linear layers, as many as the model has: so weights come from where they came
from in the run, from memory for a large model. Prints a JSON object: seconds for each shape, had
every product taken its median.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from batchpipe.engine.host_memory import keep_freed_memory
from batchpipe.engine.linear import pack_linears

LEAST_CALLS, MOST_CALLS = 3, 60
LEAST_SECONDS = 0.02  # of a product with so many rows, unless it was called often enough


def alone(products: dict[str, Any], dtype: torch.dtype) -> float:
    """Seconds of one shape's products, with the rows and as often as in the run."""
    sizes = products["in_features"], products["out_features"]
    layers = nn.Sequential(
        *(nn.Linear(*sizes, bias=False, dtype=dtype) for _ in range(products["layers"]))
    ).requires_grad_(False)
    pack_linears(layers)
    with torch.inference_mode():
        return sum(
            calls * _median_seconds(list(layers), torch.randn(rows, sizes[0], dtype=dtype))
            for rows, calls in products["calls"]
        )


def _median_seconds(layers: Sequence[nn.Module], inputs: torch.Tensor) -> float:
    layers[0](inputs)  # the first with so many rows makes its kernel
    seconds: list[float] = []
    for layer in cycle(layers):
        started = time.perf_counter()
        layer(inputs)
        seconds.append(time.perf_counter() - started)
        enough = len(seconds) >= LEAST_CALLS and sum(seconds) >= LEAST_SECONDS
        if enough or len(seconds) == MOST_CALLS:
            break
    return median(seconds)


def main(times: Path, dtype: str) -> None:
    """The products of TIMES.json are timed and told."""
    keep_freed_memory()
    products = json.loads(times.read_text())["products"]
    print(json.dumps({"seconds": [alone(each, getattr(torch, dtype)) for each in products]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
