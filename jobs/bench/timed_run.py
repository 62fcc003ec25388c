"""`batchpipe run` in this process, every moment of it counted to a part of the work.

    python jobs/bench/timed_run.py TIMES.json run JOB.parquet -m MODEL -o OUT ...

The package is as it is: its own functions are wrapped where it calls them. TIMES.json then has the
seconds of each part and every matrix product, by its shape. For a CPU: nothing waits for a device.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

from stopwatch import Stopwatch

from batchpipe.job.collection import collection_paused

GEMM, ATTENTION = "GEMM", "attention"
STARTING, ELSE = "starting, ending", "everything else"


@dataclass(frozen=True, slots=True)
class Seam:
    """Functions and methods, as a module knows them, whose time is one part's.

    What they call and has a seam of its own is not counted to them, unless they are ``whole``.
    """

    part: str
    module: str
    names: tuple[str, ...]
    whole: bool = False


ENGINE, JOB, RUN = "batchpipe.engine", "batchpipe.job", "batchpipe.running"
SEAMS = (
    Seam(ELSE, f"{RUN}.job", ("run",)),
    Seam(STARTING, f"{RUN}.job", ("make_ready",)),
    Seam("reading", f"{RUN}.begin", ("open_job", "prepare")),
    Seam("reading", f"{RUN}.job", ("check_unchanged",)),
    Seam("tokenising", f"{JOB}.language", ("Language.tokenize",)),
    Seam("planning", f"{RUN}.begin", ("plan_job",)),
    Seam("planning", f"{RUN}.own_engine", ("plan_job", "expected_seconds")),
    Seam("loading", f"{RUN}.own_engine", ("OwnBackend.open",)),
    Seam("loading", f"{RUN}.own_engine", ("load_model", "check_attention"), whole=True),
    Seam("other tensor work", f"{ENGINE}.model", ("Decoder.logits",)),
    Seam(ATTENTION, f"{ENGINE}.attention", ("PagedAttention.attend",)),
    Seam("sampling", f"{ENGINE}.engine", ("sample",)),
    Seam("scheduling", f"{ENGINE}.engine", ("Engine.steps",)),
    Seam("scheduling", f"{RUN}.own_engine", ("Replanner.answered", "Replanner.between_steps")),
    Seam("detokenising", f"{RUN}.said", ("finish_text",)),
    Seam(
        "writing",
        "batchpipe.journal.journal",
        tuple(
            f"Journal.{name}"
            for name in ("create", "open", "keep", "record", "add", "flush", "finish")
        ),
    ),
    Seam("writing", f"{RUN}.job", ("write_results",)),
    Seam("writing", f"{RUN}.execute", ("packed_plan",)),
)
LINEARS = (f"{ENGINE}.linear", "PackedLinear.forward"), ("torch.nn", "Linear.forward")

Shape = tuple[int, int]  # in_features, out_features


@dataclass(slots=True)
class Products:
    """Matrix products of one shape: ``[rows, in_features] x [in_features, out_features]``."""

    layers: set[int] = field(default_factory=set)  # each has weights of its own
    calls: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))  # by rows
    seconds: float = 0.0


class TimedRun:
    """The seams of this process are wrapped; its stopwatch runs."""

    def __init__(self) -> None:
        self.watch = Stopwatch(STARTING)
        self.products: defaultdict[Shape, Products] = defaultdict(Products)
        self._whole = False  # inside a seam to which all that it calls is counted

    def wrap(self) -> None:
        """Every function of `SEAMS`, and every linear layer, is counted from now on."""
        with collection_paused():
            for seam in SEAMS:
                for name in seam.names:
                    _replace(seam.module, name, lambda inner, seam=seam: self._timed(inner, seam))
            for module, name in LINEARS:
                _replace(module, name, self._product)

    def told(self) -> dict[str, Any]:
        """Everything counted, as JSON."""
        self.watch.turn()
        return {
            "seconds": dict(self.watch.seconds),
            "turns": self.watch.turns,
            "products": [
                {
                    "in_features": shape[0],
                    "out_features": shape[1],
                    "layers": len(of_shape.layers),
                    "seconds": of_shape.seconds,
                    "calls": sorted(of_shape.calls.items()),
                }
                for shape, of_shape in self.products.items()
            ],
        }

    def _timed(self, inner: Callable[..., Any], seam: Seam) -> Callable[..., Any]:
        if isgeneratorfunction(inner):
            return self._timed_steps(inner, seam.part)

        @wraps(inner)
        def outer(*given: Any, **named: Any) -> Any:
            if self._whole:
                return inner(*given, **named)
            self.watch.begin(seam.part)
            self._whole = seam.whole
            try:
                return inner(*given, **named)
            finally:
                self._whole = False
                self.watch.end()

        return outer

    def _timed_steps(self, inner: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The same generator; what its caller does between two steps is not counted to it."""

        @wraps(inner)
        def outer(*given: Any, **named: Any) -> Iterator[Any]:
            steps = inner(*given, **named)
            try:
                while True:
                    self.watch.begin(part)
                    try:
                        step = next(steps, None)
                    finally:
                        self.watch.end()
                    if step is None:
                        return
                    yield step
            finally:
                steps.close()

        return outer

    def _product(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A linear layer's forward; its rows and seconds are kept by its shape."""

        @wraps(inner)
        def outer(layer: Any, inputs: Any) -> Any:
            if self._whole:
                return inner(layer, inputs)
            self.watch.begin(GEMM)
            try:
                return inner(layer, inputs)
            finally:
                seconds = self.watch.end()
                of_shape = self.products[layer.in_features, layer.out_features]
                of_shape.layers.add(id(layer))
                of_shape.calls[inputs.shape[:-1].numel()] += 1
                of_shape.seconds += seconds

        return outer


def _replace(
    module: str, name: str, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """The module's function, or its class's method, is the wrapped one."""
    owner: Any = import_module(module)
    *classes, attribute = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    raw = vars(owner)[attribute]
    if isinstance(raw, classmethod):
        setattr(owner, attribute, classmethod(wrapped(raw.__func__)))
    else:
        setattr(owner, attribute, wrapped(raw))


def main(times: Path, arguments: list[str]) -> None:
    """The command has run; what it took lies in ``times``."""
    timed = TimedRun()
    timed.wrap()
    from batchpipe.cli import main as batchpipe

    try:
        batchpipe(arguments)
    finally:
        times.write_text(json.dumps(timed.told()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
