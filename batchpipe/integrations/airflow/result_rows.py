"""Result rows in the form that `LLMBatchOperator` of Airflow's common.ai provider writes."""

from __future__ import annotations

from typing import Any

from batchpipe.journal.folder import open_folder
from batchpipe.journal.manifest import read_manifest
from batchpipe.rows.json_text import to_json
from batchpipe.rows.output_file import writing
from batchpipe.rows.request_ids import RequestIds
from batchpipe.rows.source import open_source


def write_result_rows(run_dir: str, rows_out: str) -> None:
    """ROWS_OUT has a line for each row of the finished run's OUT, in the same order."""
    run = read_manifest(open_folder(run_dir))
    assert run is not None, f"{run_dir} holds no run"
    job = run.command["job"]
    source = open_source(run.command["run"]["out"])
    ids = RequestIds(source, job["id_column"])
    with writing(rows_out) as stream:
        for rows in source.batches():
            found = zip(ids.read(rows), rows.mappings(source.names), strict=True)
            for index, (custom_id, row) in enumerate(found, rows.first):
                line = _result_row(index, custom_id, row, job["model"])
                stream.write(f"{to_json(line)}\n".encode())


def _result_row(index: int, custom_id: str, row: dict[str, Any], model: str) -> dict[str, Any]:
    status = row["status"]
    return {
        "custom_id": custom_id,
        "index": index,
        "status": status,
        "output": row["output"] if status == "success" else None,
        "raw_output": row["output"] if status == "invalid_output" else None,
        "error": None if status == "success" else _error(status, row.get("error")),
        "model": model,
        "usage": {"input_tokens": row["prompt_tokens"], "output_tokens": row["completion_tokens"]},
        "finish_reason": row.get("finish_reason"),
    }


def _error(status: str, sentence: str | None) -> dict[str, Any]:
    is_invalid = status == "invalid_output"
    return {
        "type": "output_validation_error" if is_invalid else "request_error",
        "message": sentence,
        "provider_code": None,
        "stage": "output_validation" if is_invalid else "request",
    }
