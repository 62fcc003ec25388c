"""Sentences speak of options as the command line writes them; here as keyword arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from batchpipe.config import JobOptions, PlanOptions, RunOptions
from batchpipe.errors import BatchpipeError
from batchpipe.rows.parameters import COLUMNS

OPTIONS = {
    *JobOptions.__dataclass_fields__,
    *RunOptions.__dataclass_fields__,
    *PlanOptions.__dataclass_fields__,
    *COLUMNS,
}
FLAGS = ("overwrite", "trust_remote_code", "ignore_eos", "with_token_ids", "simulate", "compare")


def in_python(sentence: str) -> str:
    """The same with keyword arguments in place of options.

    >>> in_python("--kv-memory 3 is no amount of memory; give --overwrite")
    'kv_memory 3 is no amount of memory; give overwrite=True'
    """
    return re.sub(r"--([a-z][a-z-]*)", _keyword, sentence).replace("same command", "same call")


def _keyword(option: re.Match[str]) -> str:
    name = option[1].replace("-", "_")
    if name not in OPTIONS:
        return option[0]
    return f"{name}=True" if name in FLAGS else name


@contextmanager
def python_words() -> Iterator[None]:
    """What batchpipe raises within speaks of keyword arguments."""
    try:
        yield
    except BatchpipeError as error:
        error.args = (in_python(str(error)),)
        raise
