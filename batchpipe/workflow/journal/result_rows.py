"""What the results need of a row that is finished, so that nothing else of it need be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchpipe.planner.query.graph import INPUT
from batchpipe.rows.json_text import to_json
from batchpipe.workflow.journal.records import Record
from batchpipe.workflow.kinds.prepared import Prepared
from batchpipe.workflow.running.rows import Row, Tree


@dataclass(frozen=True, slots=True)
class Shown:
    """One row of the results."""

    below: tuple[int, ...]  # of its key, what stands behind the number in its table
    values: Mapping[str, Any]  # by label; a label without a value is not there
    error: str | None


class ResultRows:
    """Which rows of the results a finished row gives, and what they show."""

    def __init__(self, prepared: Prepared) -> None:
        levels = prepared.levels
        self._levels = levels
        self._path = levels.path(prepared.graph.result_level)
        self._output = prepared.output
        self._steps = [operator.name for operator in prepared.graph.operators]

    def record(self, tree: Tree) -> Record:
        """All that the results, and groups, need of the row and those below it."""
        rows = []
        if self._path[0] == tree.row.level:
            rows = list(self._rows(tree.row, self._path[1:]))
        return _record(tree.row.level, tree.ordinal, rows, tree.gathered, _dropped(tree.row))

    def unreadable(
        self, table: str, ordinal: int, fault: str, gathered: Mapping[str, list[Any]]
    ) -> Record:
        """The same of a row that cannot be read."""
        rows = [Shown((), {}, fault)] if self._path[0] == table == INPUT else []
        return _record(table, ordinal, rows, gathered, 0)

    def _rows(self, row: Row, path: tuple[str, ...]) -> Iterator[Shown]:
        if row.is_dropped:
            return
        if not path:
            yield Shown(row.key[1:], self._values(row), row.cause(self._steps))
            return
        maker = self._levels.maker(path[0])
        if maker in row.causes:  # the rows that it might have had are told by one
            yield Shown(row.key[1:], self._values(row), row.cause(self._steps))
        for each in row.below.get(path[0], ()):
            yield from self._rows(each, path[1:])

    def _values(self, row: Row) -> dict[str, Any]:
        scope, found = row.scope, {}
        for label, column in self._output.items():
            step, _, field = column.partition(".")
            if not field:
                found[label] = scope.get(step)
            elif step in scope:
                found[label] = scope[step][field]
        return found


def _dropped(row: Row) -> int:
    """The rows that filters dropped, here and below."""
    if row.is_dropped:
        return 1
    return sum(_dropped(each) for rows in row.below.values() for each in rows)


def _record(
    table: str,
    ordinal: int,
    rows: list[Shown],
    gathered: Mapping[str, list[Any]],
    dropped: int,
) -> Record:
    shown = [{"below": each.below, "values": each.values, "error": each.error} for each in rows]
    failed = [each.error for each in rows if each.error is not None]
    return Record(
        table,
        ordinal,
        content=to_json({"rows": shown, "gathered": gathered}),
        error=failed[0] if failed else None,
        failed=len(failed),
        dropped=dropped,
    )
