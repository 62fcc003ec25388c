"""What calls cost is what they took, else what the database thinks, and the plan says which."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from harness import write_lines
from postgres_server import BINARIES, postgres_server

import batchpipe as bp
from batchpipe.planner.query.cost import CallSeconds, sql_seconds
from batchpipe.workflow.journal.tallies import StepTally
from batchpipe.workflow.lowering.call_costs import call_costs
from batchpipe.workflow.lowering.lower import lowered


def asking(url: str) -> bp.Workflow:
    flow = bp.Workflow(databases={"d": url})
    flow.sql("few", "d", "SELECT 1 AS n")
    flow.sql("many", "d", "SELECT count(*) AS n FROM many WHERE n % 7 = :n", values={"n": "n"})
    return flow


def test_calls_take_what_they_took_lately() -> None:
    tally = StepTally()
    for seconds in (1.0, 3.0):
        tally.took(seconds)
    assert (tally.call_seconds, tally.timed_calls, tally.seconds) == (2.0, 2, 4.0)
    for _ in range(200):
        tally.took(5.0)
    assert tally.call_seconds == pytest.approx(5.0, abs=1e-3)


def test_measured_goes_before_explained_and_that_before_assumed(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "d.db").execute("CREATE TABLE many (n integer)").connection.close()
    flow = asking(f"sqlite:///{tmp_path / 'd.db'}").flow
    graph = lowered(flow, ("n",)).graph
    assert call_costs(flow, graph) == {}  # SQLite tells no cost
    tally = {"call_seconds": 0.5, "timed_calls": 40}
    assert call_costs(flow, graph, {"few": tally}) == {"few": CallSeconds(0.5, "mean of 40 calls")}
    text = str(asking(flow.databases["d"]).plan(write_lines(tmp_path / "in.jsonl", [{"n": 1}])))
    assert "at 0.001 s a call (assumed)" in text


def test_a_database_that_is_not_there_is_no_error_of_the_plan(tmp_path: Path) -> None:
    flow = asking(f"sqlite:///{tmp_path / 'none.db'}")
    inputs = write_lines(tmp_path / "in.jsonl", [{"n": 1}])
    steps = flow.plan(inputs).as_json()["steps"]
    assert [step["call_seconds"]["source"] for step in steps] == ["assumed", "assumed"]


@pytest.mark.skipif(not BINARIES, reason="no PostgreSQL is installed: apt-get install postgresql")
def test_postgresql_says_what_it_thinks(tmp_path: Path) -> None:
    with postgres_server() as server:
        server.execute(
            "CREATE TABLE many AS SELECT n FROM generate_series(1, 50000) AS n", "ANALYZE many"
        )
        inputs = write_lines(tmp_path / "in.jsonl", [{"n": 1}])
        steps = asking(server.url).plan(inputs).as_json()["steps"]
    few, many = (step["call_seconds"] for step in steps)
    assert few["source"] == many["source"] == "EXPLAIN"
    assert few["seconds"] == sql_seconds(0.0) < many["seconds"] < 1


def test_a_run_that_goes_on_plans_with_what_it_has_measured(tmp_path: Path) -> None:
    """The figures of the earlier session are in the run directory, and decide."""
    from batchpipe.journal.folder import open_folder
    from batchpipe.workflow.begin import known_run, make_ready
    from batchpipe.workflow.options import WorkflowOptions

    connection = sqlite3.connect(tmp_path / "d.db")
    connection.execute("CREATE TABLE many (n integer)")
    connection.close()
    flow = asking(f"sqlite:///{tmp_path / 'd.db'}").output("few.rows", "many.rows")
    inputs = write_lines(tmp_path / "in.jsonl", [{"n": n} for n in range(5)])
    summary = flow.run(inputs, out=tmp_path / "out.jsonl")
    assert summary.by_step["many"]["timed_calls"] == 5
    options = WorkflowOptions(str(inputs), str(tmp_path / "out.jsonl"))
    known = known_run(open_folder(f"{options.out}.run"), options)
    plan = make_ready(flow.flow, options, known).plan
    assert plan.call_seconds["many"].source == "mean of 5 calls"
    assert plan.call_seconds["many"].seconds == summary.by_step["many"]["call_seconds"]
