"""A workflow as a person reads it: each operator below the last of those that it needs."""

from __future__ import annotations

from collections.abc import Callable

from batchpipe.planner.query.graph import INPUT, Operator, QueryGraph

INDENT = "   "


def graph_tree(graph: QueryGraph, told: Callable[[Operator], str] | None = None) -> str:
    """The operators as an indented tree, with what is ``told`` of each."""
    place = {each.name: at for at, each in enumerate(graph.operators)}
    below: dict[str, list[Operator]] = {}
    for each in graph.operators:
        needed = [source.name for source in graph.sources(each)]
        below.setdefault(max(needed, key=place.__getitem__, default=""), []).append(each)
    lines = [f"input: {', '.join(graph.inputs)}"]

    def add(above: str, depth: int) -> None:
        for each in below.get(above, ()):
            text = (told or described)(each)
            lines.append(f"{INDENT * depth}└─ {text}")
            add(each.name, depth + 1)

    add("", 0)
    lines += [f"{name} = {same}" for name, same in sorted(graph.same_as.items())]
    lines += [f"together: {', '.join(run)}" for run in graph.fused]
    lines.append(f"results: {', '.join(graph.outputs)}")
    return "\n".join(lines)


def described(operator: Operator) -> str:
    """What the operator is and what the rules found out of it, in a line."""
    said = f"{operator.name}: {' '.join((operator.kind, *operator.models))}"
    if operator.level != INPUT:
        said += f" for each {operator.level}"
    if operator.reads:
        said += f", reads {' '.join(operator.reads)}"
    return ", ".join([said, *noted(operator)])


def noted(operator: Operator) -> list[str]:
    """What the rules found out of the operator."""
    found = []
    if operator.after:
        found.append(f"after {' '.join(sorted(operator.after))}")
    if operator.collapses:
        found.append("collapses")
    if operator.extends is not None:
        found.append(f"extends {operator.extends}")
    if operator.block_order:
        found.append(f"blocks {' '.join(str(at + 1) for at in operator.block_order)}")
    return found
