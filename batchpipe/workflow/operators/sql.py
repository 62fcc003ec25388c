"""A query for each row; what comes from the row is only ever a bound parameter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from threading import Lock
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.rows.words import listed
from batchpipe.workflow.operators.database import Database, Refused
from batchpipe.workflow.operators.explain import Estimate
from batchpipe.workflow.operators.plain import NotPlain, plain
from batchpipe.workflow.operators.retry import Patience, Transient, retried
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Sql

MANY_ROWS = 10_000  # for a single row; they are all kept, which the user is told


class Query:
    """A step's query, asked for one row after another, by any number of threads."""

    def __init__(self, step: Sql, database: Database) -> None:
        self._step, self._database = step, database
        self._patience = Patience(step.attempts, longest_wait_seconds=10.0)
        self._telling = Lock()  # taken for good by who tells that there are many rows

    def check(self) -> Estimate:
        """The parameters are those of the step, and the database takes the query.

        Where it cannot be asked now, ``unknown`` says so: rows may find it back.

        Raises:
            ConfigError: they are not, or it does not
        """
        step, database = self._step, self._database
        named = database.parameters(step.query)
        if named != frozenset(step.values):
            raise ConfigError(
                f"{step.place}: its query has the parameters {listed(sorted(named))}, its values "
                f"are for {listed(sorted(step.values))}"
            )
        try:
            return database.explained(step.query)
        except Refused as reason:
            raise ConfigError(
                f"{step.place}: database {database.name} does not take its query: {reason}"
            ) from reason

    def answer(self, values: Mapping[str, Any]) -> Outcome:
        """The query's rows with these parameters; or why there are none, after all attempts."""
        name = self._database.name
        for parameter, value in values.items():
            if isinstance(value, (list, dict)):
                what = "a list" if isinstance(value, list) else "an object"
                return Outcome(
                    error=f"parameter {parameter} is {what}, and a query takes texts, "
                    f"numbers and null; explode it, or pass it as text by tojson"
                )
        try:
            found = retried(
                lambda: self._database.rows(self._step.query, values),
                self._patience,
                self._database.closing,
            )
            rows = [_plain_row(row) for row in found]
        except Transient as reason:
            return Outcome(error=f"database {name} does not answer: {reason}")
        except (Refused, NotPlain) as reason:
            return Outcome(error=f"database {name}: {reason}")
        self._tell_many(len(rows))
        return Outcome({"rows": rows, "first": rows[0] if rows else None})

    def _tell_many(self, rows: int) -> None:
        """Said once: a join without its condition, perhaps."""
        if rows > MANY_ROWS and self._telling.acquire(blocking=False):
            print(
                f"{self._step.place}: the query gave {rows:,} rows for a single row, and all of "
                f"them are kept; a WHERE or a LIMIT would keep fewer",
                file=sys.stderr,
            )


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in row.items():
        try:
            made[name] = plain(value)
        except NotPlain as reason:
            raise NotPlain(
                f"column {name} is {reason}; cast it to text in the query, or leave it out"
            ) from reason
    return made
