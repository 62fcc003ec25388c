"""Texts and expressions over a row's columns: what they read, what they say, what they give.

A row is a mapping: the input's columns under their names, and a mapping of fields for each step.
``{{ step.field }}`` is always that column, also where Python's dict has a method ``field``. What a
cell holds is only ever a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.environment import TemplateExpression
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from batchpipe.rows.template import RenderError, failing_line, free_names, sandbox
from batchpipe.rows.words import one_line
from batchpipe.workflow.authoring.names import Fault, Names

Number = Callable[[str], int]  # of a column, in what is written instead of it

_OTHER_FILES = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
_LEFT, _LITERAL = "⟨", "⟨<⟩"  # so that no text of the author's looks like a column


class _Read:
    """What a template and an expression share; ``columns`` in the order of their first use."""

    columns: tuple[str, ...]

    def __init__(self, source: str, names: Names) -> None:
        self.source = source
        self._names = names
        try:
            self._free = free_names(_bare(), self._parsed())
            found: dict[str, None] = {}
            self.tree = self._with(lambda column, node: found.setdefault(column, None) or node)
            self.columns = tuple(found)
            self._compiled = sandbox().from_string(self.tree)
        except TemplateSyntaxError as error:
            raise Fault(f"{error.message}", line=error.lineno) from error

    def _parsed(self) -> nodes.Template:
        raise NotImplementedError

    def _with(self, column_node: Callable[[str, nodes.Expr], nodes.Node]) -> nodes.Template:
        """The parsed source with something in place of each use of a column."""
        tree = _Columns(self._names, self._free, column_node).visit(self._parsed())
        assert isinstance(tree, nodes.Template)
        return tree

    def _numbered(self, number: Number) -> nodes.Template:
        """With ``⟨n⟩`` for each column, and nothing of the author's that looks so."""
        tree = self._with(lambda column, node: nodes.Name(f"⟨{number(column)}⟩", "load"))
        for data in tree.find_all(nodes.TemplateData):
            data.data = data.data.replace(_LEFT, _LITERAL)
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = constant.value.replace(_LEFT, _LITERAL)
        return tree


class Text(_Read):
    """A template, ready to be filled with the columns of a row.

    Raises:
        Fault: a mistake in its syntax, or a column that nobody makes
    """

    def _parsed(self) -> nodes.Template:
        return _bare().parse(self.source)

    def canonical(self, number: Number) -> str:
        """The text with ``⟨n⟩`` for a column and ``⟨=...⟩`` for all else that depends on a row.

        Two templates with equal canonical texts over equal columns make equal texts.
        """
        return "".join(_canonical_parts(self._numbered(number)))

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for this row; `RenderError` where the row does not fit."""
        try:
            return self._compiled.render(row)
        except Exception as error:  # a template may call any method of any value
            where = f"template line {failing_line(error) or 1}"
            raise RenderError(f"{where} failed: {_cause(error)}") from error


class Expression(_Read):
    """An expression, ready to be evaluated over the columns of a row.

    Raises:
        Fault: as `Text`
    """

    def _parsed(self) -> nodes.Template:
        parser = Parser(_bare(), self.source, state="variable")
        expression = parser.parse_expression()
        if not parser.stream.eos:
            parser.fail("one expression ends here and more follows", parser.stream.current.lineno)
        result = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
        template = nodes.Template([result], lineno=1)
        template.set_environment(_bare())
        return template

    @property
    def node(self) -> nodes.Expr:
        """The expression as Jinja2 reads it, a column of a step as `step['field']`."""
        [assign] = self.tree.body
        assert isinstance(assign, nodes.Assign)
        assert isinstance(assign.node, nodes.Expr)
        return assign.node

    def canonical(self, number: Number) -> str:
        """As `Text.canonical`."""
        [assign] = self._numbered(number).body
        assert isinstance(assign, nodes.Assign)
        return _canonical(assign.node)

    def evaluate(self, row: Mapping[str, Any]) -> Any:
        """The value for this row, of what JSON can hold; `RenderError` where the row does not fit.

        What yields values one by one, as the filter `map` does, is a list.
        """
        try:
            found = TemplateExpression(self._compiled, undefined_to_none=False)(row)
            return _plain(found)
        except Exception as error:  # as `Text.render`
            raise RenderError(f"{one_line(self.source, 60)} failed: {_cause(error)}") from error


class _Columns(NodeTransformer):
    """Puts something in place of each use of a column; what a loop or `set` names stays."""

    def __init__(
        self, names: Names, free: set[str], column_node: Callable[[str, nodes.Expr], nodes.Node]
    ) -> None:
        self._names = names
        self._free = free
        self._column_node = column_node

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, _OTHER_FILES):
            raise Fault("a template here cannot read other templates", line=node.lineno)
        if isinstance(node, nodes.Filter) and node.name == "random":
            raise Fault("the filter random would differ each time it is asked", line=node.lineno)
        return super().visit(node, *args, **kwargs)

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        return self._field(node, node.node, node.attr)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        key = node.arg.value if isinstance(node.arg, nodes.Const) else None
        return self._field(node, node.node, key)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        name = node.name
        if name not in self._free:
            return node
        if node.ctx != "load":
            if name in self._names.fields:
                raise Fault(f"{name} is a step; give this variable another name", line=node.lineno)
            return node
        if name in function_names() and name not in self._names.inputs:
            if name == "lipsum":
                raise Fault("lipsum would differ each time it is asked", line=node.lineno)
            return node
        return self._column_node(self._column(node, name, None), node)

    def _field(self, node: nodes.Getattr | nodes.Getitem, of: nodes.Node, field: Any) -> nodes.Node:
        if not isinstance(of, nodes.Name) or not isinstance(field, str) or not self._is_step(of):
            found = self.generic_visit(node)
            assert isinstance(found, nodes.Node)
            return found
        column = self._column(node, of.name, field)
        value = nodes.Getitem(of, nodes.Const(field), "load", lineno=node.lineno)
        return self._column_node(column, value)

    def _is_step(self, node: nodes.Name) -> bool:
        """True also of what is nothing at all, and was probably meant as a step."""
        return node.name in self._free and not (
            node.name in self._names.inputs or node.name in function_names()
        )

    def _column(self, node: nodes.Node, name: str, field: str | None) -> str:
        try:
            return self._names.column(name, field)
        except Fault as fault:
            raise Fault(str(fault), line=node.lineno) from None


def _canonical_parts(tree: nodes.Template) -> Iterator[str]:
    for statement in tree.body:
        if isinstance(statement, nodes.Output):
            yield from map(_canonical, statement.nodes)
        else:
            yield f"⟨={statement!r}⟩"


def _canonical(node: nodes.Node) -> str:
    if isinstance(node, nodes.TemplateData):
        return node.data
    if isinstance(node, nodes.Name) and node.name.startswith(_LEFT):
        return node.name
    return f"⟨={node!r}⟩"


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


@cache
def function_names() -> frozenset[str]:
    """Names that mean a function in a template where no column has them."""
    return frozenset(sandbox().globals)


@cache
def _bare() -> SandboxedEnvironment:
    """Without functions, so that each name is looked up."""
    bare = sandbox()
    bare.globals = {}
    return bare
