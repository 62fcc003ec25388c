"""From a workflow as written to the operators that the planner sees; all that is wrong with it.

Nothing is asked for this: no database, no host and no model. Only the functions of `python` steps
are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import networkx as nx

from batchpipe.errors import ConfigError
from batchpipe.planner.query.graph import INPUT, QueryGraph
from batchpipe.workflow.authoring.names import Fault, Names
from batchpipe.workflow.lowering.fields import checked_types, fields_of
from batchpipe.workflow.lowering.level_of import LevelTree
from batchpipe.workflow.lowering.operator_of import operator_of
from batchpipe.workflow.lowering.parsed import function_names
from batchpipe.workflow.lowering.readings import Reading, readings_of
from batchpipe.workflow.lowering.step_checks import check_name, check_own, check_used
from batchpipe.workflow.lowering.types import ANY, Type
from batchpipe.workflow.steps import Flow, Reduce, Step

OWN_COLUMNS = ("status", "error")  # that every result has beside those that it shows

Given = ParamSpec("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Lowered:
    """A workflow over an input of known columns, found right."""

    flow: Flow
    graph: QueryGraph
    names: Names  # what its texts may read
    output: Mapping[str, str]  # label -> column that the results show


def lowered(flow: Flow, inputs: Mapping[str, Type] | Iterable[str]) -> Lowered:
    """The operators of the workflow over an input of these columns, in an order to ask them in.

    Raises:
        ConfigError: something in it cannot work, with the step, its line and the fix
    """
    types = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(inputs, ANY)
    columns = tuple(types)
    _check_names(flow, columns)
    names = Names(columns, {step.name: tuple(fields_of(step)) for step in flow.steps})
    readings = {step.name: _placed(flow, step, readings_of, names) for step in flow.steps}
    levels = LevelTree(columns)
    operators = []
    for step in _in_order(flow, readings):
        _placed(flow, step, check_own, flow)
        found = readings[step.name]
        made = _placed(flow, step, checked_types, found, types)
        types |= {f"{step.name}.{field}": each for field, each in made.items()}
        operators.append(_placed(flow, step, operator_of, found, levels, flow))
        levels.add(operators[-1])
    check_used(flow)
    output = _output(flow, names, readings, levels)
    graph = QueryGraph(tuple(operators), columns, tuple(output.values()))
    return Lowered(flow, graph, names, output)


def columns_read(flow: Flow) -> tuple[str, ...]:
    """The columns that an input must have: all that is read or shown and that no step makes.

    Raises:
        ConfigError: a mistake in a step's texts
    """
    made = {step.name: tuple(fields_of(step)) for step in flow.steps}
    names = Names(_AnyColumn(made), made)
    found: dict[str, None] = {}
    for step in flow.steps:
        for reading in _placed(flow, step, readings_of, names).values():
            found |= dict.fromkeys(column for column in reading.columns if "." not in column)
    shown = (column for column in flow.output.values() if "." not in column and column not in made)
    return tuple(found | dict.fromkeys(shown))


class _AnyColumn(frozenset[str]):
    """The columns of an input that is not known: any name but these, of steps, and functions'."""

    def __contains__(self, name: object) -> bool:
        return name not in function_names() and not super().__contains__(name)


def _placed(
    flow: Flow,
    step: Step,
    check: Callable[Concatenate[Step, Given], Found],
    *given: Given.args,
    **named: Given.kwargs,
) -> Found:
    """What the check says of the step; its `Fault` as an error with the place in the file."""
    try:
        return check(step, *given, **named)
    except Fault as fault:
        raise fault.error(
            step.name, source=flow.source, line=step.line, lines=step.lines
        ) from fault


def _check_names(flow: Flow, inputs: tuple[str, ...]) -> None:
    if not flow.steps:
        raise ConfigError(f"{flow.source} has no steps; add one")
    seen: set[str] = set()
    for step in flow.steps:
        _placed(flow, step, check_name, inputs, seen)
        seen.add(step.name)


def _in_order(flow: Flow, readings: Mapping[str, Mapping[str, Reading]]) -> list[Step]:
    """The steps, each behind those that it reads and else as they are written."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(step.name for step in flow.steps)
    for step in flow.steps:
        read = {column for each in readings[step.name].values() for column in each.columns}
        sources = {column.partition(".")[0] for column in read if "." in column}
        if isinstance(step, Reduce) and step.of in flow.by_name:
            sources.add(step.of)
        graph.add_edges_from((source, step.name) for source in sources)
    place = {step.name: at for at, step in enumerate(flow.steps)}
    try:
        order = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
    except nx.NetworkXUnfeasible:
        raise _circle(flow, [source for source, _ in nx.find_cycle(graph)]) from None
    return [flow.by_name[name] for name in order]


def _circle(flow: Flow, names: list[str]) -> ConfigError:
    """The error that names the steps, from the one that is written first."""
    first = min(range(len(names)), key=lambda at: [s.name for s in flow.steps].index(names[at]))
    circle = [flow.by_name[name] for name in (*names[first:], *names[:first], names[first])]
    if len(circle) == 2:
        return ConfigError(f"{flow.source}: {circle[0].place} reads itself")
    steps = ", which is read by ".join(step.place for step in circle)
    return ConfigError(f"{flow.source}: steps wait for one another in a circle: {steps}")


def _output(
    flow: Flow,
    names: Names,
    readings: Mapping[str, Mapping[str, Reading]],
    levels: LevelTree,
) -> dict[str, str]:
    """What the results show, by label."""
    shown = dict(flow.output)
    if not shown:
        read = {c for each in readings.values() for one in each.values() for c in one.columns}
        used = {column.partition(".")[0] for column in read if "." in column}
        used |= {step.of for step in flow.steps if isinstance(step, Reduce)}
        last = [step.name for step in flow.steps if step.name not in used]
        shown = {f"{n}.{f}": f"{n}.{f}" for n in last for f in names.fields[n]}
    try:
        for column in shown.values():
            names.written(column)
        path = levels.path(levels.deepest(shown.values()))
    except Fault as fault:
        raise ConfigError(f"{flow.source}: output: {fault}") from fault
    beside = names.inputs if path[-1] == INPUT else ()  # groups stand alone in the results
    for label in shown:
        if label in OWN_COLUMNS or label in beside:
            whose = "every result has" if label in OWN_COLUMNS else "the input has"
            raise ConfigError(
                f"{flow.source}: output: {whose} a column {label}; choose another label"
            )
    return shown
