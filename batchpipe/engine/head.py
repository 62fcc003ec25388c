"""The scores behind many tokens, some rows at a time: never ``[all tokens, vocab]`` at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Computed(nn.Module):
    """A model's body that computes once and gives the same output from then on."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self._body = body
        self._output: Any = None

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the body gives."""
        if self._output is None:
            self._output = self._body(*given, **named)
        return self._output


@contextmanager
def computing_once(model: Any, body: Computed) -> Iterator[None]:
    """Within, the model has this body: called again, it computes its head alone.

    So what the model's own code does behind its last layer, scaling or capping say, is done to any
    rows of the output.
    """
    name, own = model.base_model_prefix, model.base_model
    setattr(model, name, body)
    try:
        yield
    finally:
        setattr(model, name, own)
