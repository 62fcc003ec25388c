"""A database that goes away in the middle of a job: what was answered stays, the rest fails."""

from __future__ import annotations

import time
from dataclasses import replace

from postgres_server import PostgresServer

from batchpipe.workflow.operators.calls import ThreadedCalls
from batchpipe.workflow.operators.database import Database
from batchpipe.workflow.operators.sql import Query
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Sql

ROWS = 60
KILLED_AFTER = 20

SLOW = Sql(
    name="facts",
    database="films",
    query="SELECT :row + 0 AS row FROM pg_sleep(0.005)",
    values={"row": "row"},
    attempts=2,
)


def test_rows_before_are_kept_rows_after_fail_and_another_tool_goes_on(
    server: PostgresServer,
) -> None:
    database = Database("films", server.url, threads=4)
    query = Query(SLOW, database)
    found: dict[int, Outcome] = {}
    others: dict[int, Outcome] = {}
    with ThreadedCalls[int](4) as calls, ThreadedCalls[int](2) as other_calls:
        for row in range(ROWS):
            while calls.room == 0:
                found |= dict(calls.finished(None))
            calls.submit(row, lambda row=row: query.answer({"row": row}))  # type: ignore[misc]
            others |= dict(other_calls.finished(None))
            other_calls.submit(row, lambda row=row: Outcome({"row": row}))  # type: ignore[misc]
            if len(found) >= KILLED_AFTER:
                server.kill()
        while calls.unfinished:
            found |= dict(calls.finished(None))
        others |= dict(other_calls.finished(None))
    database.close()
    assert sorted(found) == sorted(others) == list(range(ROWS))
    assert all(outcome.error is None for outcome in others.values())
    answered = {row for row, outcome in found.items() if outcome.error is None}
    assert answered >= set(range(KILLED_AFTER - 8))
    assert len(answered) < ROWS
    for row in range(ROWS):
        if row in answered:
            assert found[row].values["first"] == {"row": row}
        else:
            assert str(found[row].error).startswith("database films does not answer: ")


def test_a_server_that_restarts_between_attempts_costs_no_row(server: PostgresServer) -> None:
    database = Database("films", server.url, threads=4)
    patient = Query(replace(SLOW, attempts=20), database)
    found: dict[int, Outcome] = {}
    with ThreadedCalls[int](4) as calls:
        for row in range(ROWS):
            while calls.room == 0:
                found |= dict(calls.finished(None))
            calls.submit(row, lambda row=row: patient.answer({"row": row}))  # type: ignore[misc]
            if row == ROWS // 2:
                server.kill()
                time.sleep(0.1)
                server.start()
        while calls.unfinished:
            found |= dict(calls.finished(None))
    database.close()
    assert [found[row].values["first"] for row in range(ROWS)] == [{"row": i} for i in range(ROWS)]
