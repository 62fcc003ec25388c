"""What a step needs beside the columns that it reads, and what nobody needs."""

from __future__ import annotations

from batchpipe.errors import ConfigError
from batchpipe.planner.query.graph import INPUT
from batchpipe.rows.words import listed
from batchpipe.workflow.authoring.functions import imported
from batchpipe.workflow.authoring.names import Fault, meant
from batchpipe.workflow.authoring.variables import variables_in
from batchpipe.workflow.lowering.operator_of import models_of
from batchpipe.workflow.lowering.sql_text import check_query
from batchpipe.workflow.steps import Explode, Flow, Http, Python, Reduce, Sql, Step


def check_name(step: Step, inputs: tuple[str, ...], seen: set[str]) -> None:
    """Nothing else has the step's name."""
    if step.name in seen:
        raise Fault("there are two steps of this name; rename one")
    if step.name in inputs:
        raise Fault("the input has a column of this name; rename the step")


def check_own(step: Step, flow: Flow) -> None:
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


def check_used(flow: Flow) -> None:
    """Each model and database is asked by some step."""
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
