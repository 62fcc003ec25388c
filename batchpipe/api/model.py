"""The model of a call, as a caller gives it: one that is loaded, or the name of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from batchpipe.api.lists import kind_of
from batchpipe.api.llm import LLM

Model = LLM | str | os.PathLike[str]


def check_model(model: object) -> None:
    """It is a `Model`, or `TypeError`."""
    if not isinstance(model, (LLM, str, os.PathLike)):
        raise TypeError(f"model must be an LLM or a model's name, not {kind_of(model)}")


@contextmanager
def opened(model: Model) -> Iterator[LLM]:
    """The LLM, or one of this name that is closed afterwards.

    Raises:
        TypeError: it is neither
    """
    check_model(model)
    if isinstance(model, LLM):
        yield model
        return
    with LLM(model) as llm:
        yield llm
