"""Workflows as YAML files: what they say, and the line at which each of it stands.

A file is an object of up to four keys::

    models:                       # a name for each, and its hub id or directory
      small: Qwen/Qwen3-0.6B
      large: {model: Qwen/Qwen3-8B, dtype: bfloat16, kv_memory: 4GB}
    databases:                    # SQLAlchemy URLs; ${NAME} is a variable of the environment,
                                  # ${NAME:-text} is the text where there is none
      films: sqlite:///films.db
    steps:                        # a name for each; the key of its kind says what it is
      about: {llm: small, template: "What is {{ title }} about?", max_tokens: 64}
      facts: {sql: films, query: "SELECT year FROM film WHERE title = :t", values: {t: title}}
    output: [about.output]        # or {label: about.output}; without it, what no other step reads

The keys of each kind of step are those of the method of the same name of `batchpipe.Workflow`.
``yes`` and ``no`` are texts, as in YAML 1.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed, shown
from batchpipe.workflow.authoring.names import Fault, meant
from batchpipe.workflow.authoring.surroundings import database_url, model_choice, shown_columns
from batchpipe.workflow.authoring.written import KINDS, step_of
from batchpipe.workflow.steps import Flow, ModelChoice, Step

try:
    import yaml
except ImportError as error:
    raise ConfigError(
        f"workflow files need the package pyyaml ({error}): pip install 'batchpipe[workflow]'"
    ) from error

TOP = ("models", "databases", "steps", "output")
MOST_NODES = 100_000  # repeated aliases would grow without end


def read_flow(path: str | os.PathLike[str]) -> Flow:
    """The workflow that the file describes.

    Raises:
        ConfigError: with the file, the line, the step and the key that is wrong
    """
    source = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the workflow {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the workflow {source} is not UTF-8: {error}") from error
    return flow_of_text(text, source)


def flow_of_text(text: str, source: str) -> Flow:
    """The workflow that the text of a file describes; see `read_flow`."""
    given, lines = _parsed(text, source)
    return _File(given, lines, source).flow()


class _File:
    """A file's content, and the line of each of its keys."""

    def __init__(self, given: object, lines: Mapping[str, int], source: str) -> None:
        self._given = given
        self._lines = lines
        self._source = source

    def flow(self) -> Flow:
        top = self._object("", "a workflow", self._given)
        for key in top:
            if key not in TOP:
                known = f"{meant(key, TOP)}; its keys are {listed(TOP)}"
                raise self._error(key, f"a workflow has no key {key}{known}")
        if not top.get("steps"):
            raise self._error("steps", "there are no steps; write {name: {llm: ...}}")
        models = self._object("models", "models", top.get("models"))
        databases = self._object("databases", "databases", top.get("databases"))
        steps = self._object("steps", "steps", top["steps"])
        return Flow(
            steps=tuple(self._step(name, steps[name]) for name in steps),
            models={name: self._model(name, models[name]) for name in models},
            databases={
                n: self._at(f"databases.{n}", database_url, n, databases[n]) for n in databases
            },
            output=self._at("output", shown_columns, top.get("output") or ()),
            source=self._source,
        )

    def _model(self, name: str, given: object) -> ModelChoice:
        at = f"models.{name}"
        choice: ModelChoice = self._at(at, model_choice, name, given)
        return replace(choice, line=self._line(at))

    def _step(self, name: str, given: object) -> Step:
        at = f"steps.{name}"
        keys = self._object(at, f"step {name}", given)
        kinds = [key for key in keys if key in KINDS]
        if len(kinds) != 1:
            near = next((meant(key, KINDS) for key in keys if meant(key, KINDS)), "")
            found = f"are both of {listed(kinds)}" if kinds else f"is of no kind{near}"
            raise self._error(at, f"step {name} {found}; a step has one of {listed(KINDS)}")
        inner = {
            key.removeprefix(f"{at}."): line
            for key, line in self._lines.items()
            if key.startswith(f"{at}.")
        }
        line = self._line(at)
        try:
            return step_of(kinds[0], name, keys, line=line, lines=inner)
        except Fault as fault:
            raise fault.error(name, source=self._source, line=line, lines=inner) from fault

    def _object(self, at: str, what: str, given: object) -> dict[str, Any]:
        if given is None and at in ("models", "databases"):
            return {}
        if not isinstance(given, dict):
            raise self._error(at, f"{what} is {shown(given)}; it must be keys with values")
        for key in given:
            if not isinstance(key, str):
                raise self._error(at, f"{what} has the key {shown(key)}; write it in quotes")
        return given

    def _at(self, at: str, read: Any, *given: Any) -> Any:
        try:
            return read(*given)
        except ConfigError as error:
            raise self._error(at, str(error)) from error

    def _line(self, at: str) -> int:
        """Of this path; what a merge key ``<<`` brought has none of its own."""
        return self._lines.get(at, 1)

    def _error(self, at: str, sentence: str) -> ConfigError:
        return ConfigError(f"{self._source} line {self._line(at)}: {sentence}")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: no dates, no 12:30 as a number, no ``yes`` as true."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]{0,18})", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first)
    )


def _parsed(text: str, source: str) -> tuple[object, dict[str, int]]:
    """The content, and the line of each key and list element by its path."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"the workflow {source} is empty; write steps: {{name: {{...}}}}")
        lines: dict[str, int] = {}
        for path, line, is_new in _walked(node):
            if not is_new:
                raise ConfigError(f"{source} line {line}: {path} stands here a second time")
            if len(lines) > MOST_NODES:
                raise ConfigError(f"{source} has more than {MOST_NODES:,} values; write less")
            lines[path] = line
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: this is no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: this is no YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: it contains itself, or lies too deep in itself") from error


def _walked(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int, bool]]:
    """The path and line of every value below, and whether its key is new in its object."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            below = f"{path}.{name}".lstrip(".")
            yield below, _line(value, key), name not in seen
            seen.add(name)
            yield from _walked(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            below = f"{path}[{place}]"
            yield below, _line(value, value), True
            yield from _walked(value, below)


def _line(node: yaml.Node, key: yaml.Node) -> int:
    """Where a text begins, or the key of anything else; from 1."""
    if isinstance(node, yaml.ScalarNode):
        begins_below = node.style in ("|", ">")
        return int(node.start_mark.line) + 1 + begins_below
    return int(key.start_mark.line) + 1
