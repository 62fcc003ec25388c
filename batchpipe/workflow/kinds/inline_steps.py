"""Steps that ask nobody: what filters, explodes and reduces make of values that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from batchpipe.rows.template import RenderError
from batchpipe.workflow.lowering.expressions import Text
from batchpipe.workflow.lowering.readings import Reading
from batchpipe.workflow.operators.rows import Unfit, elements, goes_on
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.levels import Gather
from batchpipe.workflow.running.rows import Row
from batchpipe.workflow.running.wavefront import Wavefront
from batchpipe.workflow.steps import Explode, Filter, Reduce

Inline = Callable[[Row, Wavefront], Outcome]


def value_of(reading: Reading, row: Mapping[str, Any]) -> Any:
    """What the text or expression is for this row; `RenderError` where the row does not fit."""
    return reading.render(row) if isinstance(reading, Text) else reading.evaluate(row)


def filtering(step: Filter, readings: Mapping[str, Reading]) -> Inline:
    """Rows are ``kept`` where the condition is true."""

    def outcome(row: Row, wavefront: Wavefront) -> Outcome:
        return Outcome({"kept": goes_on(value_of(readings["filter"], row.scope))})

    return _told(outcome)


def exploding(step: Explode, readings: Mapping[str, Reading]) -> Inline:
    """The ``items`` are the elements of a list."""

    def outcome(row: Row, wavefront: Wavefront) -> Outcome:
        found = elements(value_of(readings["explode"], row.scope))
        return Outcome({"items": [each["item"] for each in found]})

    return _told(outcome)


def reducing(step: Reduce, gather: Gather, readings: Mapping[str, Reading]) -> Inline:
    """The ``items`` of the rows that come together; of groups, what each row brings to its own.

    What a row brings is ``[values of the columns, item, why there is none]``. A row whose group is
    not known brings only the last.
    """
    by = [readings[f"by[{place}]"] for place in range(len(step.by))]

    def item(row: Row) -> dict[str, Any]:
        return {name: value_of(readings[f"items.{name}"], row.scope) for name in step.fields}

    def together(row: Row, wavefront: Wavefront) -> Outcome:
        items = []
        for member, cause in wavefront.members(row, gather):
            if cause is None:
                try:
                    items.append(item(member))
                except RenderError as bad:
                    if not gather.skips_failed:
                        return Outcome(error=str(bad))
        return Outcome({"items": items})

    def brought(row: Row, wavefront: Wavefront) -> Outcome:
        found: list[list[Any]] = []
        for member, cause in wavefront.members(row, gather):
            group: list[Any] | None = None
            made: dict[str, Any] | None = None
            why = cause
            try:
                group = [value_of(each, member.scope) for each in by]
                made = item(member) if cause is None else None
            except (RenderError, KeyError) as bad:  # a column that failed is not there
                why = cause or f"step {step.name} failed: {bad}"
            if why is None or not gather.skips_failed:
                found.append([group, made, why])
        return Outcome({"gathered": found})

    return _told(brought if step.by else together)


def _told(outcome: Inline) -> Inline:
    """What a row's expression raises is the row's error."""

    def told(row: Row, wavefront: Wavefront) -> Outcome:
        try:
            return outcome(row, wavefront)
        except (RenderError, Unfit) as bad:
            return Outcome(error=str(bad))

    return told
