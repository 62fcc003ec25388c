"""A decoder that answers at random at once: all of a run but its forward passes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from batchpipe.engine.token_batch import TokenBatch
from batchpipe.journal.journal import Journal
from batchpipe.running import own_engine

VOCABULARY = 256
POOL_ROWS = 4096
TIMED = ("create", "open", "add", "flush", "finish")


class StubDecoder:
    """Scores from a fixed pool of random ones, another place of it for every step."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._pool = torch.randn(POOL_ROWS, VOCABULARY, generator=generator)
        self._at = 0

    def logits(self, batch: TokenBatch) -> torch.Tensor:  # [sequences, vocabulary]
        """As many rows of the pool as sequences ask for a token."""
        self._at += 1
        rows = (torch.arange(len(batch.sequences)) + self._at) % POOL_ROWS
        return self._pool[rows]

    def close(self) -> None:
        """Nothing has to be given back."""


def use_stub(figures: Path) -> None:
    """Runs of this process answer with a `StubDecoder` and tell what their journal cost."""
    stub: Any = own_engine
    stub.load_model = lambda *given, **named: None
    stub.check_attention = lambda *given: None
    stub.bind = lambda *given: StubDecoder()
    spent = {"seconds": 0.0, "depth": 0}
    for name in TIMED:
        raw = Journal.__dict__[name]
        inner = raw.__func__ if isinstance(raw, classmethod) else raw
        timed = _timed(inner, spent)
        setattr(Journal, name, classmethod(timed) if isinstance(raw, classmethod) else timed)
    finish = Journal.finish

    def told(self: Journal, summary: dict[str, Any]) -> None:
        finish(self, summary)
        told = {"journal_seconds": spent["seconds"], "parts": len(self.manifest.parts)}
        figures.write_text(json.dumps(told))

    Journal.finish = told  # type: ignore[method-assign]


def _timed(inner: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
    """The same function; its time is added up, save where another timed one calls it."""

    def outer(*given: Any, **named: Any) -> Any:
        spent["depth"] += 1
        began = time.perf_counter()
        try:
            return inner(*given, **named)
        finally:
            spent["depth"] -= 1
            if not spent["depth"]:
                spent["seconds"] += time.perf_counter() - began

    return outer
