"""What a database thinks a query costs, without running it. Knows connections, not SQLAlchemy.

PostgreSQL is asked for the plan that fits any parameters: those of the rows are not known yet, and
one that is null would be planned as a query without rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_NAME = "batchpipe_explained"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A query's cost in the database's own units and its rows, None where it does not tell."""

    cost: float | None = None
    rows: float | None = None
    unknown: str | None = None  # why nothing is known, where a database should have told


def explain_postgresql(connection: Any, query: str, parameters: Sequence[str]) -> Estimate:
    """Cost and rows of the generic plan; the query's parameters are written ``$1``, ``$2``, ...

    A prepared statement of the connection is left behind: it must not go back to a pool.
    """
    driver = connection.execution_options(no_parameters=True)  # a "%" is just that
    driver.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    driver.exec_driver_sql(f"PREPARE {_NAME} AS {query}")
    nulls = f"({', '.join('NULL' for _ in parameters)})" if parameters else ""
    found = driver.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE {_NAME}{nulls}").scalar_one()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return Estimate(cost=float(plan["Total Cost"]), rows=float(plan["Plan Rows"]))


def explain_sqlite(connection: Any, query: str, parameters: Sequence[str]) -> Estimate:
    """Nothing is known of its cost, but the query is one that SQLite can run."""
    values = tuple(None for _ in parameters)
    connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()
    return Estimate()


# By dialect: the style in which the parameters must be written, and who explains.
EXPLAINED: dict[str, tuple[str, Callable[[Any, str, Sequence[str]], Estimate]]] = {
    "postgresql": ("numeric_dollar", explain_postgresql),
    "sqlite": ("qmark", explain_sqlite),
}

# What PostgreSQL calls mistakes that no row's values can mend: syntax, and unknown names.
POSTGRESQL_MISTAKES = frozenset({"42601", "42P01", "42703"})
