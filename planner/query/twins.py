"""Which operators of a workflow make equal values: names that say what an operator computes."""

from __future__ import annotations

from hashlib import sha256

from batchpipe.planner.query.graph import FILTER, REDUCE, Operator, QueryGraph


def identities(graph: QueryGraph) -> dict[str, str]:
    """Of each operator a name that another has where it makes equal values of equal rows.

    It is drawn from what the operator is and from the identities of what it reads. One that answers
    differently each time has an identity of its own.
    """
    found: dict[str, str] = {}
    for operator in graph.operators:
        if _has_no_twin(graph, operator):
            found[operator.name] = operator.name
        else:
            found[operator.name] = _identity(graph, operator, found)
    return found


def _has_no_twin(graph: QueryGraph, operator: Operator) -> bool:
    """True where equal arguments do not mean equal values, or equal rows.

    A filter below an explode drops rows of this explode alone.
    """
    if not operator.is_pure:
        return True
    return operator.makes is not None and any(
        each.shape == FILTER and operator.makes in graph.path(each.level)
        for each in graph.operators
    )


def _identity(graph: QueryGraph, operator: Operator, found: dict[str, str]) -> str:
    def column(name: str) -> str:
        maker = graph.maker(name)
        return name if maker is None else f"{found[maker.name]}.{name.partition('.')[2]}"

    left_out = graph.filters_before(operator) if operator.shape == REDUCE else set()
    said = (
        operator.kind,
        operator.arguments,
        operator.shape,
        operator.models,
        operator.resource,
        operator.prompt,
        operator.roles,
        operator.writes,
        found.get(operator.level, operator.level),
        operator.makes is not None,
        tuple(map(column, operator.reads)),
        sorted(found[name] for name in left_out),
    )
    return sha256(repr(said).encode()).hexdigest()
