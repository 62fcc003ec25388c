"""A step as the planner sees it: what it reads and makes, and all that decides its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from batchpipe.planner.query.graph import EXPLODE, FILTER, INPUT, MAP, REDUCE, Operator
from batchpipe.workflow.authoring.functions import is_named, name_of, row_keys
from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.lowering.fields import fields_of
from batchpipe.workflow.lowering.level_of import LevelTree
from batchpipe.workflow.lowering.readings import Reading, body_texts, text_keys
from batchpipe.workflow.steps import (
    Asked,
    Cascade,
    Explode,
    Filter,
    Flow,
    Http,
    Llm,
    Python,
    Reduce,
    Sql,
    Step,
    Vote,
)

Said = Callable[[str], str]  # by key, the canonical text of what the step reads there

_KINDS: dict[type[Step], tuple[str, str]] = {  # kind, shape
    Llm: ("llm", MAP),
    Vote: ("vote", MAP),
    Cascade: ("cascade", MAP),
    Sql: ("sql", MAP),
    Http: ("http", MAP),
    Python: ("python", MAP),
    Filter: ("filter", FILTER),
    Explode: ("explode", EXPLODE),
    Reduce: ("reduce", REDUCE),
}


def operator_of(
    step: Step, readings: Mapping[str, Reading], levels: LevelTree, flow: Flow
) -> Operator:
    """The operator that the step is, behind those whose levels are known.

    Raises:
        Fault: no row sees all that it reads, or what it reduces is no level
    """
    numbers: dict[str, int] = {}
    if isinstance(step, Reduce) and step.of != INPUT:
        numbers[_marker(step, flow)] = 0  # also where no item has a column of that level

    def said(key: str) -> str:
        return readings[key].canonical(lambda column: numbers.setdefault(column, len(numbers)))

    arguments = json.dumps(_arguments(step, said), ensure_ascii=False, sort_keys=True)
    blocks = tuple(map(said, text_keys(step))) if isinstance(step, Asked) else ()
    kind, shape = _KINDS[type(step)]
    level, makes = _levels(step, tuple(numbers), levels)
    return Operator(
        name=step.name,
        kind=kind,
        reads=tuple(numbers),
        writes=tuple(fields_of(step)),
        arguments=arguments,
        level=level,
        shape=shape,
        makes=makes,
        models=models_of(step),
        resource=_resource(step),
        is_pure=_is_pure(step, flow),
        is_costly=isinstance(step, (Asked, Sql, Http)),
        blocks=blocks,
        roles=tuple(role for role, _ in step.messages) if isinstance(step, Asked) else (),
        order_free=isinstance(step, Asked) and step.order_free,
        line=step.line,
    )


def models_of(step: Step) -> tuple[str, ...]:
    """The models that the step may ask, by their names in the workflow, in order."""
    match step:
        case Llm():
            return (step.model,)
        case Vote() | Cascade():
            return step.models
    return ()


def _arguments(step: Step, said: Said) -> dict[str, Any]:
    match step:
        case Llm():
            return {"sampling": dict(step.sampling)}
        case Vote():
            names = ("sampling", "samples", "agreement", "weights", "answer")
            return {name: getattr(step, name) for name in names}
        case Cascade():
            return {"choices": step.choices, "margin": step.margin}
        case Sql():
            return {
                "query": step.query,
                "values": {name: said(f"values.{name}") for name in step.values},
            }
        case Http():
            return {
                "method": step.method,
                "url": said("http"),
                "headers": {name: said(f"headers.{name}") for name in step.headers},
                "body": [[key, said(key)] for key, _ in body_texts(step.body)],
                "form": _form(step.body),
            }
        case Python():
            return {
                "function": name_of(step.function),
                "reads": [said(f"reads[{place}]") for place in range(len(step.reads))],
                "called": list(row_keys(step.reads).values()),
            }
        case Filter():
            return {"condition": said("filter")}
        case Explode():
            return {"column": said("explode")}
        case Reduce():
            return {
                "by": [said(f"by[{place}]") for place in range(len(step.by))],
                "items": [[name, said(f"items.{name}")] for name in step.fields],
                "on_error": step.on_error,
            }


def _form(body: object) -> Any:
    """The body without its texts."""
    if isinstance(body, Mapping):
        return {name: _form(value) for name, value in body.items()}
    if isinstance(body, (list, tuple)):
        return [_form(value) for value in body]
    return "" if isinstance(body, str) else body


def _levels(step: Step, reads: tuple[str, ...], levels: LevelTree) -> tuple[str, str | None]:
    """Whose rows the step is asked for, and the level of the rows that it gives."""
    level = levels.deepest(reads)
    if isinstance(step, Explode):
        return level, step.name
    if not isinstance(step, Reduce):
        return level, None
    if level != step.of:
        below = f"reads a column of {level}, which is below {step.of or 'the input'}"
        raise Fault(f"{step.name} {below}; reduce {level} first, or write reduce: {level}")
    if step.by:
        return level, step.name
    above = levels.above(level)
    if above is None:
        whole = "the input" if level == INPUT else level
        raise Fault(
            f"nothing is above the rows of {whole} where they could come together; give `by`, the "
            f"columns whose equal values make a group",
            "reduce",
        )
    return above, None


def _marker(step: Reduce, flow: Flow) -> str:
    """A column that tells the rows of the reduced level apart."""
    made_by = flow.by_name[step.of]
    return f"{step.of}.items" if isinstance(made_by, Reduce) else f"{step.of}.index"


def _resource(step: Step) -> str | None:
    match step:
        case Sql():
            return step.database
        case Http():
            return step.url.partition("://")[2].partition("/")[0] or step.url
    return None


def _is_pure(step: Step, flow: Flow) -> bool:
    """True where equal questions have equal answers, so that one of them is enough."""
    match step:
        case Asked():
            return not step.sampling["temperature"] or "seed" in step.sampling
        case Http():
            return step.share
        case Sql():
            return "mode=rw" not in flow.databases[step.database]
        case Python():
            return is_named(step.function)
    return True
