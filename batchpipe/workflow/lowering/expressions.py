"""Texts and expressions over a row's columns: what they read, what they say, what they give.

A row is a mapping: the input's columns under their names, and a mapping of fields for each step.
What a cell holds is only ever a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.environment import TemplateExpression
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from batchpipe.rows.template import RenderError, failing_line
from batchpipe.rows.words import one_line
from batchpipe.workflow.authoring.names import Names
from batchpipe.workflow.lowering.looked_up import LOOKED_UP, looked_up
from batchpipe.workflow.lowering.parsed import (
    Number,
    Parsed,
    canonical,
    canonical_parts,
    compiled,
)


class Text:
    """A template, ready to be filled with the columns of a row.

    With ``looks_up`` its own text, but no cell, may name variables of the environment: ``${NAME}``.

    Raises:
        Fault: a mistake in its syntax, or a column that nobody makes
    """

    def __init__(self, source: str, names: Names, *, looks_up: bool = False) -> None:
        self.source = source
        self._parsed = Parsed(source, names, _template)
        self.columns, self.tree = self._parsed.columns, self._parsed.tree
        self.variables = looked_up(self.tree) if looks_up else ()
        self._compiled = compiled(self.tree)

    def canonical(self, number: Number) -> str:
        """The text with ``⟨n⟩`` for a column and ``⟨=...⟩`` for all else that depends on a row.

        Two templates with equal canonical texts over equal columns make equal texts.
        """
        return "".join(canonical_parts(self._parsed.numbered(number)))

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for this row; `RenderError` where the row does not fit.

        Variables of the environment stand in it as they are written.
        """
        return self._filled(row, {each.written: each.written for each in self.variables})

    def sent(self, row: Mapping[str, Any]) -> str:
        """The same with the variables' values, which no file and no sentence may have."""
        return self._filled(row, {each.written: each.value() for each in self.variables})

    def without_values(self, row: Mapping[str, Any]) -> list[str]:
        """What is equal for two rows exactly where the text that is `sent` is made alike.

        A cell may say ``${NAME}`` too; that is told from a variable by writing these in two ways.
        """
        other = {each.written: each.written.replace("$", "<", 1) for each in self.variables}
        return [self.render(row), *([self._filled(row, other)] if other else [])]

    def _filled(self, row: Mapping[str, Any], values: Mapping[str, str]) -> str:
        try:
            return self._compiled.render({**row, LOOKED_UP: values} if values else row)
        except Exception as error:  # a template may call any method of any value
            where = f"template line {failing_line(error) or 1}"
            raise RenderError(f"{where} failed: {_cause(error)}") from error


class Expression:
    """An expression, ready to be evaluated over the columns of a row.

    Raises:
        Fault: as `Text`
    """

    def __init__(self, source: str, names: Names) -> None:
        self.source = source
        self._parsed = Parsed(source, names, _assignment)
        self.columns, self.tree = self._parsed.columns, self._parsed.tree
        self._compiled = TemplateExpression(compiled(self.tree), undefined_to_none=False)

    @property
    def node(self) -> nodes.Expr:
        """The expression as Jinja2 reads it, a column of a step as `step['field']`."""
        return _assigned(self.tree)

    def canonical(self, number: Number) -> str:
        """As `Text.canonical`."""
        return canonical(_assigned(self._parsed.numbered(number)))

    def evaluate(self, row: Mapping[str, Any]) -> Any:
        """The value for this row, of what JSON can hold; `RenderError` where the row does not fit.

        What yields values one by one, as the filter `map` does, is a list.
        """
        try:
            return _plain(self._compiled(row))
        except Exception as error:  # as `Text.render`
            raise RenderError(f"{one_line(self.source, 60)} failed: {_cause(error)}") from error


def _template(source: str, environment: SandboxedEnvironment) -> nodes.Template:
    return environment.parse(source)


def _assignment(source: str, environment: SandboxedEnvironment) -> nodes.Template:
    """The expression as a template that gives it the name under which Jinja2 looks for it."""
    parser = Parser(environment, source, state="variable")
    expression = parser.parse_expression()
    if not parser.stream.eos:
        parser.fail("one expression ends here and more follows", parser.stream.current.lineno)
    result = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
    template = nodes.Template([result], lineno=1)
    template.set_environment(environment)
    return template


def _assigned(tree: nodes.Template) -> nodes.Expr:
    [assign] = tree.body
    assert isinstance(assign, nodes.Assign)
    assert isinstance(assign.node, nodes.Expr)
    return assign.node


def _plain(value: Any) -> Any:
    """The value as JSON has it; an undefined one raises."""
    if isinstance(value, StrictUndefined):
        str(value)  # raises with what is undefined
    if isinstance(value, str):
        return str.__str__(value)  # also of what is marked as safe HTML
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, range, Iterator)):
        return [_plain(each) for each in value]
    return value


def _cause(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
