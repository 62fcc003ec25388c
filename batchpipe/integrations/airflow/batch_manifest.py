"""What a task hands on of a finished run: a small manifest, never the rows.

It is the one of apache-airflow-providers-common-ai's `LLMBatchOperator` (`schema_version` 1), so
that a DAG can swap a hosted batch for a local one.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from batchpipe.errors import ConfigError
from batchpipe.journal.folder import open_folder
from batchpipe.journal.manifest import Manifest, digest_of, read_manifest
from batchpipe.journal.status import describe
from batchpipe.journal.summary_file import summary_of


def batch_manifest(run_dir: str, rows_out: str | None = None) -> dict[str, Any]:
    """The manifest of the finished run.

    Raises:
        ConfigError: the directory holds no finished run
    """
    folder = open_folder(run_dir)
    run = read_manifest(folder)
    summary = None if run is None else summary_of(folder, run)
    if run is None or summary is None:
        raise ConfigError(f"{run_dir} holds no finished run: somebody has changed it meanwhile")
    counts = _counts(describe(folder).statuses)
    rows = int(summary["rows"])
    assert sum(counts.values()) == rows, f"{counts}: {rows} rows"
    return {
        "schema_version": 1,
        "batch_id": batch_id(run),
        "adapter": "batchpipe",
        "llm_conn_id": None,
        "model_id": run.command["job"]["model"],
        "output_type_ref": None,
        "structured": False,
        "result_uri": rows_out or run.command["run"]["out"],
        "request_count": rows,
        "counts": counts,
        "duplicate_result_count": 0,
        "out_of_range_result_count": 0,
        "ordered": True,
        "rejoin_key": "index",
        "custom_id_prefix": "row",
        "terminal_reason": "succeeded" if counts["succeeded"] == rows else "partial",
        "submitted_at": run.sessions[0].started,
        "completed_at": _completed_at(run),
        "run_dir": run_dir,
        "usage": {
            "input_tokens": summary["prompt_tokens"],
            "computed_input_tokens": summary["computed_prompt_tokens"],
            "output_tokens": summary["completion_tokens"],
        },
    }


def batch_id(run: Manifest) -> str:
    """Names what the run is of: the same rows, model and parameters have the same."""
    return f"batchpipe-{digest_of(json.dumps(run.fingerprint, sort_keys=True).encode())[:16]}"


def _counts(statuses: dict[str, int]) -> dict[str, int]:
    """Rows by how they ended, in the contract's words; a run leaves no row out."""
    succeeded, invalid = statuses.get("success", 0), statuses.get("invalid_output", 0)
    return {
        "succeeded": succeeded,
        "errored": sum(statuses.values()) - succeeded - invalid,
        "invalid_output": invalid,
        "expired": 0,
        "cancelled": 0,
        "missing": 0,
    }


def _completed_at(run: Manifest) -> str:
    last = run.sessions[-1]
    ended = datetime.fromisoformat(last.started) + timedelta(seconds=last.seconds)
    return ended.isoformat(timespec="seconds")
