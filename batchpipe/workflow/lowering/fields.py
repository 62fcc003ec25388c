"""What each kind of step makes of a row, and which values it cannot take."""

from __future__ import annotations

import json
from collections.abc import Mapping

from batchpipe.workflow.authoring.names import Fault
from batchpipe.workflow.lowering.expressions import Expression
from batchpipe.workflow.lowering.readings import Column, Reading
from batchpipe.workflow.lowering.types import (
    ANY,
    BOOLEAN,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    Type,
    Typing,
    type_of_schema,
)
from batchpipe.workflow.steps import (
    Cascade,
    Explode,
    Filter,
    Http,
    Llm,
    Python,
    Reduce,
    Sql,
    Step,
    Vote,
)


def fields_of(step: Step) -> dict[str, Type]:
    """What the step makes for a row, and the types of it that do not depend on what it reads."""
    match step:
        case Llm():
            schema = step.sampling.get("schema")
            parsed = TEXT if schema is None else type_of_schema(json.loads(schema))
            with_form = schema is not None or "choices" in step.sampling
            return {"output": TEXT} | ({"parsed": parsed} if with_form else {})
        case Vote():
            return {"output": TEXT, "share": NUMBER, "votes": ANY, "model": TEXT}
        case Cascade():
            return {"output": TEXT, "margin": NUMBER, "model": TEXT}
        case Sql():
            return {"rows": Type(LIST.word, OBJECT), "first": ANY}
        case Http():
            return {"status": NUMBER, "text": TEXT, "json": ANY}
        case Python():
            return dict.fromkeys(step.writes, ANY)
        case Filter():
            return {}
        case Explode():
            return {"item": ANY, "index": NUMBER}
        case Reduce():
            return {**dict.fromkeys(map(key_field, step.by), ANY), "items": LIST}


def key_field(column: str) -> str:
    """Under which name a group has the column that its rows have in common."""
    return column.rpartition(".")[2]


def checked_types(
    step: Step, readings: Mapping[str, Reading], columns: Mapping[str, Type]
) -> dict[str, Type]:
    """The types of what the step makes of columns of these types.

    Raises:
        Fault: no row could have a value that the step takes
    """
    typing = Typing(columns)
    types = {key: _type(key, each, typing, columns) for key, each in readings.items()}
    made = fields_of(step)
    match step:
        case Sql():
            for key, found in types.items():
                if found.word in (LIST.word, OBJECT.word):
                    hint = "explode it first, or write | tojson for its text"
                    raise _clash(readings, key, found, f"a query takes single values: {hint}")
        case Filter():
            if types["filter"] not in (BOOLEAN, ANY):
                hint = "it must be true or false, such as score.output | int > 3"
                raise _clash(readings, "filter", types["filter"], hint)
        case Explode():
            of = types["explode"]
            if of != ANY and of.word != LIST.word:
                raise _clash(readings, "explode", of, "only a list has elements")
            made["item"] = of.element or ANY
        case Reduce():
            keys = {key_field(column): columns[column] for column in step.by}
            item = Type(OBJECT.word, fields={name: types[f"items.{name}"] for name in step.fields})
            made |= {**keys, "items": Type(LIST.word, item)}
    return made


def _type(key: str, reading: Reading, typing: Typing, columns: Mapping[str, Type]) -> Type:
    if isinstance(reading, Column):
        return columns[reading.name]
    try:
        typing.check(reading.tree)
        return typing.of(reading.node) if isinstance(reading, Expression) else TEXT
    except Fault as fault:
        raise Fault(f"{key.removesuffix('.content')}: {fault}", key, line=fault.line) from fault


def _clash(readings: Mapping[str, Reading], key: str, found: Type, hint: str) -> Fault:
    reading = readings[key]
    source = reading.source if isinstance(reading, Expression) else key
    return Fault(f"{key}: {source} is {found.word}; {hint}", key)
