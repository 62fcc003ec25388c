"""DAGs that the tests of the Airflow integration run; what differs between runs is in `params`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, dag, task

from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
from batchpipe.integrations.airflow import BatchPipeOperator

FOLDER = "{{ params.folder }}"
COMMON: dict[str, Any] = {"model": str(MODEL_DIR), "max_tokens": 24}
SLOW = {"dtype": "float32", "step_tokens": 24}  # many small steps

WHEN = {"schedule": None, "start_date": datetime(2026, 1, 1)}


def keep(manifest: dict[str, Any], folder: str) -> None:
    """The task's XCom is a file."""
    (Path(folder) / "manifest.json").write_text(json.dumps(manifest))


@dag(**WHEN, params={"folder": "", "python": ""})
def labels() -> None:
    """One operator, in the worker."""
    answer = BatchPipeOperator(
        task_id="answer",
        input=f"{FOLDER}/in.parquet",
        out=f"{FOLDER}/out.parquet",
        rows_out=f"{FOLDER}/rows.jsonl",
        python="{{ params.python }}",
        options=SLOW,
        **COMMON,
    )
    task(keep)(answer.output, FOLDER)


@dag(**WHEN, params={"folder": "", "python": ""})
def deferred() -> None:
    """The same, waited for by the triggerer."""
    answer = BatchPipeOperator(
        task_id="answer",
        input=f"{FOLDER}/in.parquet",
        out=f"{FOLDER}/out.parquet",
        python="{{ params.python }}",
        deferrable=True,
        poll_seconds=0.2,
        options=SLOW,
        **COMMON,
    )
    task(keep)(answer.output, FOLDER)


@dag(**WHEN, params={"folder": "", "python": ""})
def decorated() -> None:
    """A function's rows."""

    @task.batchpipe(out=f"{FOLDER}/out.jsonl", python="{{ params.python }}", **COMMON)
    def rows(count: int) -> list[dict[str, Any]]:
        return [{"messages": messages(ticket.text)} for ticket in load_tickets()[:count]]

    task(keep)(rows(3), FOLDER)


with DAG("failing", **WHEN, params={"folder": "", "python": "", "bare": ""}):
    named = {"python": "{{ params.python }}", **COMMON}
    BatchPipeOperator(
        task_id="no_input",
        input=f"{FOLDER}/gone.parquet",
        out=f"{FOLDER}/a.parquet",
        retries=1,
        **named,
    )
    BatchPipeOperator(
        task_id="no_package",
        input=f"{FOLDER}/in.parquet",
        out=f"{FOLDER}/b.parquet",
        retries=1,
        **{**named, "python": "{{ params.bare }}"},
    )
    BatchPipeOperator(
        task_id="bad_row",
        input=f"{FOLDER}/bad.jsonl",
        out=f"{FOLDER}/c.parquet",
        retries=1,
        **named,
    )
    BatchPipeOperator(
        task_id="bad_row_tolerated",
        input=f"{FOLDER}/bad.jsonl",
        out=f"{FOLDER}/d.parquet",
        max_errors=1,
        **named,
    )


labels()
deferred()
decorated()
