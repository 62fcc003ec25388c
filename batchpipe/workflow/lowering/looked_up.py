"""Variables of the environment within a template: looked up as it is filled, not read as Jinja2."""

from __future__ import annotations

from jinja2 import nodes

from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.authoring.variables import Variable, cut_at_variables, variables_in

LOOKED_UP = "variables of the environment"  # no column can be read under this name


def looked_up(tree: nodes.Template) -> tuple[Variable, ...]:
    """The variables that the template's own text names, each now looked up in `LOOKED_UP`.

    Raises:
        Fault: one is within ``{{ }}``, where it would be a text like any other
    """
    for constant in tree.find_all(nodes.Const):
        named = variables_in(constant.value) if isinstance(constant.value, str) else ()
        if named:
            raise Fault(f"write {named[0].written} outside of {{{{ }}}}", line=constant.lineno)
    found: list[Variable] = []
    for output in tree.find_all(nodes.Output):
        pieces: list[nodes.Expr] = []
        for node in output.nodes:
            if not isinstance(node, nodes.TemplateData):
                pieces.append(node)
                continue
            for piece in cut_at_variables(node.data):
                if isinstance(piece, Variable):
                    found.append(piece)
                    pieces.append(_lookup(piece, node.lineno))
                else:
                    pieces.append(nodes.TemplateData(piece, lineno=node.lineno))
        output.nodes = pieces
    return tuple(found)


def _lookup(variable: Variable, line: int) -> nodes.Expr:
    variables = nodes.ContextReference(lineno=line)
    of_row = nodes.Getitem(variables, nodes.Const(LOOKED_UP), "load", lineno=line)
    return nodes.Getitem(of_row, nodes.Const(variable.written), "load", lineno=line)
