"""What each kind of step reads of a row: its templates and expressions, by the key they stand at.

The runtime asks with the same texts that the planner's arguments are made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from batchpipe.workflow.authoring.names import Fault, Names
from batchpipe.workflow.lowering.expressions import Expression, Text
from batchpipe.workflow.lowering.parsed import Number
from batchpipe.workflow.steps import (
    Asked,
    Explode,
    Filter,
    Http,
    Python,
    Reduce,
    Sql,
    Step,
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is read as it is."""

    name: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The column alone."""
        return (self.name,)

    def canonical(self, number: Number) -> str:
        """As of an expression."""
        return f"⟨{number(self.name)}⟩"

    def evaluate(self, row: Mapping[str, Any]) -> Any:
        """Its value in this row."""
        step, dot, field = self.name.partition(".")
        return row[step][field] if dot else row[step]


Reading = Text | Expression | Column


def readings_of(step: Step, names: Names) -> dict[str, Reading]:
    """All that the step reads, by key: ``template``, ``messages[0].content``, ``values.title``.

    Raises:
        Fault: a mistake in a text, or a column that nobody makes, with its key
    """
    found: dict[str, Reading] = {}
    for key, source, kind in _sources(step):
        try:
            found[key] = _whole(source, names) if kind is Column else kind(source, names)
        except Fault as fault:
            raise Fault(f"{_said(key)}: {fault}", key, line=fault.line) from fault
    return found


def text_keys(step: Asked) -> tuple[str, ...]:
    """The keys of the prompt's parts, in their order."""
    if step.messages:
        return tuple(f"messages[{place}].content" for place in range(len(step.messages)))
    if len(step.blocks) == 1:
        return ("template",)
    return tuple(f"template[{place}]" for place in range(len(step.blocks)))


def body_texts(body: object, key: str = "body") -> Iterator[tuple[str, str]]:
    """The texts in a request's body, each with its key."""
    if isinstance(body, str):
        yield key, body
    elif isinstance(body, Mapping):
        for name, value in body.items():
            yield from body_texts(value, f"{key}.{name}")
    elif isinstance(body, (list, tuple)):
        for place, value in enumerate(body):
            yield from body_texts(value, f"{key}[{place}]")


def _sources(step: Step) -> Iterator[tuple[str, str, Any]]:
    match step:
        case Asked():
            parts = [text for _, text in step.messages] or step.blocks
            yield from ((key, text, Text) for key, text in zip(text_keys(step), parts, strict=True))
        case Sql():
            yield from ((f"values.{name}", each, Expression) for name, each in step.values.items())
        case Http():
            sent = partial(Text, looks_up=True)
            yield "http", step.url, sent
            yield from ((f"headers.{name}", each, sent) for name, each in step.headers.items())
            yield from ((key, text, Text) for key, text in body_texts(step.body))
        case Python():
            yield from ((f"reads[{at}]", each, Column) for at, each in enumerate(step.reads))
        case Filter():
            yield "filter", step.condition, Expression
        case Explode():
            yield "explode", step.column, Expression
        case Reduce():
            yield from ((f"by[{at}]", each, Column) for at, each in enumerate(step.by))
            yield from ((f"items.{name}", each, Expression) for name, each in step.fields.items())


def _whole(column: str, names: Names) -> Column:
    return Column(names.written(column))


def _said(key: str) -> str:
    return key.removesuffix(".content")
