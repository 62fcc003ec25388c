"""What a workflow's steps share: its models, its databases, and which columns its results show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchpipe.api.keywords import ModelKeywords, checked
from batchpipe.config import parse_bytes, parse_host_bytes
from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed, shown
from batchpipe.workflow.authoring.names import meant
from batchpipe.workflow.steps import ModelChoice

MODEL_OPTIONS = (*ModelKeywords.__annotations__, "speculate")


def model_choice(name: str, given: object) -> ModelChoice:
    """A model written as its name or directory, or as an object with ``model`` and options.

    Raises:
        ConfigError: with the option that is unknown or wrong
    """
    written = {"model": given} if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(written, Mapping):
        raise ConfigError(f"model {name} is {shown(given)}; write its hub id or directory")
    options: dict[str, Any] = {**written}
    model = options.pop("model", None)
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise ConfigError(f"model {name} has no model; give a hub id or a directory")
    for option in options:
        if option not in MODEL_OPTIONS:
            known = listed(MODEL_OPTIONS)
            raise ConfigError(
                f"model {name} has no option {option}{meant(option, MODEL_OPTIONS)}; its options "
                f"are {known}"
            )
    try:
        options = checked(options)
        if options.get("kv_memory", "auto") != "auto":
            parse_bytes(options["kv_memory"])
        parse_host_bytes(options.get("host_kv_memory", "auto"))
    except ConfigError as error:
        why = str(error).replace("--host-kv-memory", "host_kv_memory")
        raise ConfigError(f"model {name}: {why.replace('--kv-memory', 'kv_memory')}") from error
    if not isinstance(options.get("trust_remote_code", False), bool):
        raise ConfigError(f"model {name}: trust_remote_code must be true or false")
    return ModelChoice(os.fspath(model), options)


def database_url(name: str, given: object) -> str:
    """A database's URL as written; ``${NAME}`` in it stays, for `variables.with_variables`.

    Raises:
        ConfigError: it is no URL
    """
    if not isinstance(given, str) or "://" not in given:
        raise ConfigError(
            f"database {name} is {shown(given)}; write a URL such as sqlite:///films.db or "
            f"postgresql+psycopg://user:${{PASSWORD}}@host/films"
        )
    return given


def shown_columns(given: object) -> dict[str, str]:
    """The columns that results show, by the name that they have there.

    Raises:
        ConfigError: they are neither a list of columns nor labels with columns
    """
    written = given
    if isinstance(given, (list, tuple)):
        written = {each: each for each in given if isinstance(each, str)}
        if len(written) < len(given):
            raise ConfigError(f"output is {shown(given)}; list columns, each once: step.output")
    if not isinstance(written, Mapping) or not all(
        isinstance(each, str) and each for pair in written.items() for each in pair
    ):
        raise ConfigError(
            f"output is {shown(given)}; list columns such as step.output, or name them: "
            f"{{label: step.output}}"
        )
    return dict(written)
