"""From a workflow as written to the operators that the planner sees; all that is wrong with it.

Nothing is asked for this: no database, no host and no model. Only the functions of `python` steps
are imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import networkx as nx

from batchpipe.config import JobOptions
from batchpipe.errors import ConfigError
from batchpipe.planner.query.graph import INPUT, QueryGraph
from batchpipe.rows.words import listed
from batchpipe.workflow.authoring.functions import imported
from batchpipe.workflow.authoring.names import Fault, Names, meant
from batchpipe.workflow.authoring.variables import variables_in
from batchpipe.workflow.lowering.fields import checked_types, fields_of
from batchpipe.workflow.lowering.level_of import LevelTree
from batchpipe.workflow.lowering.operator_of import models_of, operator_of
from batchpipe.workflow.lowering.parsed import function_names
from batchpipe.workflow.lowering.readings import Reading, readings_of
from batchpipe.workflow.lowering.sql_text import check_query
from batchpipe.workflow.lowering.types import ANY, Type
from batchpipe.workflow.steps import Explode, Flow, Http, Python, Reduce, Sql, Step

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
        _placed(flow, step, _check_own, flow)
        found = readings[step.name]
        made = _placed(flow, step, checked_types, found, types)
        types |= {f"{step.name}.{field}": each for field, each in made.items()}
        operators.append(_placed(flow, step, operator_of, found, levels, flow))
        levels.add(operators[-1])
    _check_used(flow)
    output = _output(flow, names, readings, levels)
    graph = QueryGraph(tuple(operators), columns, tuple(output.values()))
    return Lowered(flow, graph, names, output)


def check_models(flow: Flow) -> None:
    """Every model is there and can be served, as its configuration says; no weights are read.

    Raises:
        ConfigError: one is not, or cannot
    """
    from batchpipe.job.language import load_config

    for name, options in model_options(flow).items():
        try:
            load_config(options)
        except ConfigError as error:
            error.args = (f"model {name} of {flow.source}: {error}",)
            raise


def model_options(flow: Flow) -> dict[str, JobOptions]:
    """How each model is loaded, as the options of a job without rows."""
    return {
        name: JobOptions(
            input="",
            model=choice.model,
            **{n: v for n, v in choice.options.items() if n in JobOptions.__dataclass_fields__},
        )
        for name, choice in flow.models.items()
    }


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
        _placed(flow, step, _check_name, inputs, seen)
        seen.add(step.name)


def _check_used(flow: Flow) -> None:
    models = {model for step in flow.steps for model in models_of(step)}
    databases = {step.database for step in flow.steps if isinstance(step, Sql)}
    for kind, parts, used in (
        ("model", flow.models, models),
        ("database", flow.databases, databases),
    ):
        for name in parts:
            if name not in used:
                raise ConfigError(
                    f"{flow.source}: no step asks the {kind} {name}; use it or leave it out"
                )


def _check_name(step: Step, inputs: tuple[str, ...], seen: set[str]) -> None:
    if step.name in seen:
        raise Fault("there are two steps of this name; rename one")
    if step.name in inputs:
        raise Fault("the input has a column of this name; rename the step")


def _check_own(step: Step, flow: Flow) -> None:
    """What a step needs beside columns is there."""
    for model in models_of(step):
        if model not in flow.models:
            known = f"{meant(model, flow.models)}; the workflow has {listed(flow.models)}"
            raise Fault(f"there is no model {model}{known}")
    match step:
        case Sql():
            if step.database not in flow.databases:
                known = f"{meant(step.database, flow.databases)}; it has {listed(flow.databases)}"
                raise Fault(f"the workflow has no database {step.database}{known}", "sql")
            _check_set(flow.databases[step.database], "sql")
            check_query(step.query, set(step.values))
        case Http():
            _check_set(step.url, "http")
            for name, text in step.headers.items():
                _check_set(text, f"headers.{name}")
        case Python():
            imported(step.function)
        case Reduce():
            _check_reduce(step, flow)


def _check_set(text: str, key: str) -> None:
    """The environment has every variable that the text names."""
    for variable in variables_in(text):
        try:
            variable.value()
        except Fault as fault:
            raise Fault(f"{key}: {fault}", key) from fault


def _check_reduce(step: Reduce, flow: Flow) -> None:
    of = flow.by_name.get(step.of)
    makes_rows = [s.name for s in flow.steps if isinstance(s, Explode) or _makes_groups(s)]
    if step.of != INPUT and (of is None or of.name not in makes_rows):
        missing = f"there is no step {step.of}"
        what = missing if of is None else f"{step.of} makes no rows of its own"
        raise Fault(
            f"{what}{meant(step.of, makes_rows)}; what can be reduced is input, "
            f"{listed(makes_rows)}",
            "reduce",
        )
    keys = [column.rpartition(".")[2] for column in step.by]
    for place, key in enumerate(keys):
        if key in keys[:place] or key == "items":
            raise Fault(
                f"two columns of the group would be called {step.name}.{key}; rename what "
                f"{step.by[place]} comes from",
                f"by[{place}]",
            )


def _makes_groups(step: Step) -> bool:
    return isinstance(step, Reduce) and bool(step.by)


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
