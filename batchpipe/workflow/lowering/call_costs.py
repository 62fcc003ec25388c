"""How long a step's calls take: as measured in the run so far, else as its database expects."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.planner.query.cost import CallSeconds, sql_seconds
from batchpipe.planner.query.graph import QueryGraph
from batchpipe.workflow.steps import Flow, Sql


def call_costs(
    flow: Flow, graph: QueryGraph, measured: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, CallSeconds]:
    """By operator, for those of which anything is known; no query is run.

    A database that cannot be asked now says nothing; whether it must be told is the run's to find.

    Args:
        flow: the workflow
        graph: its operators
        measured: by step, the figures of its tally in earlier sessions of the run
    """
    found: dict[str, CallSeconds] = {}
    for operator in graph.operators:
        tally = (measured or {}).get(operator.name, {})
        step = flow.by_name[operator.name]
        if not operator.models and tally.get("timed_calls"):
            source = f"mean of {tally['timed_calls']:,} calls"
            found[operator.name] = CallSeconds(tally["call_seconds"], source)
        elif isinstance(step, Sql):
            cost = _explained(step, flow)
            if cost is not None:
                found[operator.name] = CallSeconds(sql_seconds(cost), "EXPLAIN")
    return found


def _explained(step: Sql, flow: Flow) -> float | None:
    """The query's cost in the database's own units."""
    try:
        from batchpipe.workflow.operators.database import Database, Refused

        with closing(Database(step.database, flow.databases[step.database])) as database:
            return database.explained(step.query).cost
    except (ConfigError, Refused):  # no package, no file, no such table: see `Query.check`
        return None
