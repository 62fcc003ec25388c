"""What Jinja2 reads of an author's text: which columns it uses, and the text without them.

``{{ step.field }}`` is always that column, also where Python's dict has a method ``field``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.environment import Template
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from batchpipe.rows.template import free_names, sandbox
from batchpipe.workflow.authoring.names import Fault, Names

Number = Callable[[str], int]  # of a column, in what is written instead of it
Parse = Callable[[str, SandboxedEnvironment], nodes.Template]
ColumnNode = Callable[[str, nodes.Expr], nodes.Node]  # in place of a column and its node

_OTHER_FILES = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
_LEFT, _LITERAL = "⟨", "⟨<⟩"  # so that no text of the author's looks like a column


class Parsed:
    """A text or an expression as Jinja2 reads it; ``columns`` in the order of their first use.

    Raises:
        Fault: a mistake in its syntax, or a column that nobody makes
    """

    def __init__(self, source: str, names: Names, parse: Parse) -> None:
        self._source, self._names, self._parse = source, names, parse
        try:
            self._free = free_names(_bare(), self._again())
        except TemplateSyntaxError as error:
            raise _fault(error) from error
        found: dict[str, None] = {}
        self.tree = self._with(lambda column, node: found.setdefault(column, None) or node)
        self.columns = tuple(found)

    def numbered(self, number: Number) -> nodes.Template:
        """The tree with ``⟨n⟩`` for each column, and nothing of the author's that looks so."""
        tree = self._with(lambda column, node: nodes.Name(f"⟨{number(column)}⟩", "load"))
        for text in tree.find_all(nodes.TemplateData):
            text.data = text.data.replace(_LEFT, _LITERAL)
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = constant.value.replace(_LEFT, _LITERAL)
        return tree

    def _again(self) -> nodes.Template:
        return self._parse(self._source, _bare())

    def _with(self, column_node: ColumnNode) -> nodes.Template:
        """The parsed source with something in place of each use of a column."""
        tree = _Columns(self._names, self._free, column_node).visit(self._again())
        assert isinstance(tree, nodes.Template)
        return tree


def compiled(tree: nodes.Template) -> Template:
    """The tree, ready to be filled.

    Raises:
        Fault: it names a filter or a test that there is not
    """
    try:
        return sandbox().from_string(tree)
    except TemplateSyntaxError as error:
        raise _fault(error) from error


def canonical_parts(tree: nodes.Template) -> Iterator[str]:
    """A numbered template's own text, and ``⟨=...⟩`` for all else that depends on a row."""
    for statement in tree.body:
        if isinstance(statement, nodes.Output):
            yield from map(canonical, statement.nodes)
        else:
            yield f"⟨={statement!r}⟩"


def canonical(node: nodes.Node) -> str:
    """The same of one part of it."""
    if isinstance(node, nodes.TemplateData):
        return node.data
    if isinstance(node, nodes.Name) and node.name.startswith(_LEFT):
        return node.name
    return f"⟨={node!r}⟩"


@cache
def function_names() -> frozenset[str]:
    """Names that mean a function in a template where no column has them."""
    return frozenset(sandbox().globals)


class _Columns(NodeTransformer):
    """Puts something in place of each use of a column; what a loop or `set` names stays."""

    def __init__(self, names: Names, free: set[str], column_node: ColumnNode) -> None:
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


def _fault(error: TemplateSyntaxError) -> Fault:
    return Fault(f"{error.message}", line=error.lineno)


@cache
def _bare() -> SandboxedEnvironment:
    """Without functions, so that each name is looked up."""
    bare = sandbox()
    bare.globals = {}
    return bare
