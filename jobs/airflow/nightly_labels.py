"""A DAG: each night the day's support tickets are labelled, Parquet to Parquet, and counted.

    FOLDER/tickets-2026-01-01.parquet  ->  FOLDER/labels-2026-01-01.parquet

Everything is a parameter; by default the tiny model that ships with batchpipe answers, so that

    airflow dags test nightly_labels 2026-01-01 -f jobs/airflow/nightly_labels.py \\
        -c '{"folder": "/data/tickets"}'

runs anywhere. A task that was killed is cleared, or retried, and goes on where it was.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
from airflow.sdk import dag, task

from batchpipe.demo.prompt import MODEL_DIR, system_text
from batchpipe.integrations.airflow import BatchPipeOperator

# The shipped model's chat, as text: only the ticket at its end differs, so all before is computed
# once.
TEMPLATE = (
    f"<|im_start|>system\n{system_text()}<|im_end|>\n"
    "<|im_start|>user\n{{ text }}<|im_end|>\n<|im_start|>assistant\n"
)


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={
        "folder": "/data/tickets",
        "model": str(MODEL_DIR),
        "template": TEMPLATE,
        "max_tokens": 48,
    },
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    doc_md=__doc__,
)
def nightly_labels() -> None:
    """Label the day's tickets, then count the labels."""
    label = BatchPipeOperator(
        task_id="label",
        input="{{ params.folder }}/tickets-{{ ds }}.parquet",
        model="{{ params.model }}",
        out="{{ params.folder }}/labels-{{ ds }}.parquet",
        max_errors="1%",
        # Rendered once by Airflow: the template that comes out of it is batchpipe's.
        options={"template": "{{ params.template }}", "max_tokens": "{{ params.max_tokens }}"},
    )

    @task
    def count(manifest: dict[str, Any]) -> dict[str, int]:
        """How many tickets each category got; the rows are read where the manifest says."""
        outputs = pq.read_table(manifest["result_uri"], columns=["output"])["output"].to_pylist()
        return dict(Counter(json.loads(output)["category"] for output in outputs).most_common())

    count(label.output)


nightly_labels()
