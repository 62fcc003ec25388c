"""The databases, hosts and functions that a workflow asks, each connected to once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from batchpipe.workflow.kinds.benches import Batches, Bench, Lanes
from batchpipe.workflow.kinds.tool_steps import Calculating, Querying, Requesting, ToolStep
from batchpipe.workflow.lowering.readings import Reading
from batchpipe.workflow.steps import Flow, Http, Python, Sql

if TYPE_CHECKING:  # optional packages, imported where a step needs them
    from batchpipe.workflow.operators.database import Database
    from batchpipe.workflow.operators.http import Client

SQL_THREADS = 8  # of a database
HTTP_THREADS = 256  # of all hosts; they begin as there is work for them
HOST_CALLS = 32  # of one host


class Tools:
    """What asks for each step's rows, and the bench on which its calls wait.

    Args:
        flow: the workflow
        closing: closes what was connected to
    """

    def __init__(self, flow: Flow, closing: ExitStack) -> None:
        self.steps: dict[str, ToolStep] = {}
        self.benches: dict[str, Bench[Any]] = {}
        self._flow, self._closing = flow, closing
        self._databases: dict[str, tuple[Database, Bench[Any]]] = {}
        self._hosts: tuple[Client, Bench[Any]] | None = None

    def add(self, step: Sql | Http | Python, readings: Mapping[str, Reading]) -> None:
        """The step's rows can be asked for; its database is looked at.

        Raises:
            ConfigError: the step cannot be asked, whatever the row
        """
        match step:
            case Python():
                from batchpipe.workflow.operators.python import Function

                self.steps[step.name] = Calculating(step, readings)
                batches: Bench[Any] = Batches(step.name, Function(step), step.batch_rows)
                self._closing.callback(batches.close)
                self.benches[step.name] = batches
            case Sql():
                from batchpipe.workflow.operators.sql import Query

                database, self.benches[step.name] = self._database(step.database)
                query = Query(step, database)
                query.check()
                self.steps[step.name] = Querying(step, readings, query)
            case Http():
                from batchpipe.workflow.operators.http import Endpoint

                client, self.benches[step.name] = self._all_hosts()
                self.steps[step.name] = Requesting(step, readings, Endpoint(step, client))

    def _database(self, name: str) -> tuple[Database, Bench[Any]]:
        from batchpipe.workflow.operators.database import Database

        if name not in self._databases:
            database = Database(name, self._flow.databases[name], threads=SQL_THREADS)
            lanes: Bench[Any] = Lanes(SQL_THREADS, name)
            self._closing.callback(lanes.close)
            self._closing.callback(database.close)  # first, so that no attempt is waited for
            self._databases[name] = database, lanes
        return self._databases[name]

    def _all_hosts(self) -> tuple[Client, Bench[Any]]:
        from batchpipe.workflow.operators.http import Client

        if self._hosts is None:
            client = Client(connections=HTTP_THREADS)
            lanes: Bench[Any] = Lanes(HTTP_THREADS, "http", lane_calls=HOST_CALLS)
            self._closing.callback(lanes.close)
            self._closing.callback(client.close)
            self._hosts = client, lanes
        return self._hosts
