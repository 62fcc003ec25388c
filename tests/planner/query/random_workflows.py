"""Workflows drawn at random, all of them valid, with many twins and filters."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from toy_workflows import step, workflow

from batchpipe.planner.query.graph import INPUT, Operator, QueryGraph

KINDS = ("llm", "llm", "python", "sql", "vote", "filter", "filter", "explode", "reduce", "group")


@st.composite
def query_graphs(draw: st.DrawFn) -> QueryGraph:
    """Up to a dozen operators, each of which reads what one level sees."""
    made: list[Operator] = []
    for at in range(draw(st.integers(1, 12))):
        graph = workflow(*made)
        if made and draw(st.integers(0, 3)) == 0:
            made.append(_twin(draw(st.sampled_from(made)), f"s{at}"))
            continue
        levels = [INPUT, *(each.makes for each in made if each.makes is not None)]
        level = draw(st.sampled_from(levels))
        kind = draw(st.sampled_from(KINDS))
        own = [c for each in made if each.gives == level for c in each.columns]
        own = [*graph.inputs[:2], *own] if level == INPUT else own
        seen = [
            c
            for name in graph.path(level)
            for each in made
            if each.gives == name
            for c in each.columns
        ]
        seen += graph.inputs[:2] if INPUT in graph.path(level) else ()
        reads = (draw(st.sampled_from(own)), *draw(st.lists(st.sampled_from(seen), max_size=2)))
        made.append(_operator(draw, graph, f"s{at}", kind, level, reads))
    return _shown(draw, workflow(*made))


def _twin(operator: Operator, name: str) -> Operator:
    return replace(operator, name=name, makes=name if operator.makes is not None else None)


def _operator(
    draw: st.DrawFn, graph: QueryGraph, name: str, kind: str, level: str, reads: tuple[str, ...]
) -> Operator:
    arguments = draw(st.sampled_from("ab"))
    if kind == "group":
        return step(name, "reduce", *reads, level=level, makes=name, arguments=arguments)
    if kind == "reduce":
        if len(graph.path(level)) == 1:  # nothing made these rows of one above
            return step(name, "python", *reads, level=level, arguments=arguments)
        above = graph.path(level)[1]
        return step(name, "reduce", *reads, level=above, arguments=arguments)
    if kind in ("filter", "explode"):
        return step(name, kind, *reads, level=level, arguments=arguments)
    pure = draw(st.sampled_from((True, True, True, False)))
    if kind != "llm":
        return step(name, kind, *reads, level=level, arguments=arguments, is_pure=pure)
    blocks = tuple(f"⟨{at}⟩" for at in range(len(reads)))
    free = draw(st.booleans())
    blocks = draw(st.permutations((*blocks, "text"))) if free else blocks
    return step(
        name, kind, *reads, level=level, is_pure=pure, blocks=tuple(blocks), order_free=free
    )


def _shown(draw: st.DrawFn, graph: QueryGraph) -> QueryGraph:
    """The workflow with some columns of one level's rows as its results."""
    columns = [c for each in graph.operators for c in each.columns] or ["title"]
    first = draw(st.sampled_from(columns))
    level = graph.deepest([first])
    seen = [c for c in columns if graph.deepest([c]) in graph.path(level)]
    rest = draw(st.lists(st.sampled_from(seen or ["title"]), max_size=8))
    return workflow(*graph.operators, outputs=tuple(dict.fromkeys([first, *rest])))
