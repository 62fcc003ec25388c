"""The form that answers must have, as Python says it: lists, dicts, model classes, texts, files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchpipe.api.sentences import python_words
from batchpipe.errors import ConfigError
from batchpipe.structured.constraint import KINDS, BadConstraint, constraint_of
from batchpipe.structured.options import file_or_text

OF_FILES = ("schema", "grammar")


def plain_forms(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments; what is a form is the text that the command line has for it.

    >>> plain_forms({"choices": ["yes", "no"], "max_tokens": 4})
    {'choices': '["yes", "no"]', 'max_tokens': 4}

    Raises:
        ConfigError: a form makes no sense, or its file cannot be read
    """
    with python_words():
        return {
            name: _text(name, value) if name in KINDS and value is not None else value
            for name, value in given.items()
        }


def _text(name: str, value: object) -> str:
    if isinstance(value, os.PathLike):
        value = f"@{os.fspath(value)}"
    if isinstance(value, str):
        return file_or_text(name, value) if name in OF_FILES else value
    try:
        return constraint_of(name, value).text
    except BadConstraint as bad:
        raise ConfigError(str(bad)) from bad
