"""What the Airflow room does without Airflow: command lines, rows in, manifest and rows out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchpipe.cli import run as run_command
from batchpipe.config import JobOptions, RunOptions
from batchpipe.demo.prompt import MODEL_DIR
from batchpipe.errors import ConfigError
from batchpipe.integrations import airflow as room
from batchpipe.integrations.airflow.batch_manifest import batch_manifest
from batchpipe.integrations.airflow.command_line import REFUSED, check_options, command_line
from batchpipe.integrations.airflow.result_rows import write_result_rows
from batchpipe.integrations.airflow.rows_file import rows_file
from batchpipe.running.job import run

ROW_KEYS = [
    *("custom_id", "index", "status", "output", "raw_output", "error"),
    *("model", "usage", "finish_reason"),
]


def parsed(options: dict[str, object]) -> dict[str, object]:
    """What the command understands of the words that the options become."""
    words = command_line("-in.jsonl", "m", "o.jsonl", "o.run", options)
    assert words.pop(0) == "run"
    return run_command.make_context("run", words).params


def test_the_command_reads_what_the_operator_was_given() -> None:
    given = parsed(
        {
            "template": "{{ a }}\n--json",
            "temperature": -1,
            "max_tokens": "8",
            "ignore_eos": True,
            "trust_remote_code": False,
            "stop": ["a b", "--c"],
            "limit": None,
        }
    )
    assert given["input"] == "-in.jsonl"
    assert (given["model"], given["out"], given["run_dir"]) == ("m", "o.jsonl", "o.run")
    assert given["template"] == "{{ a }}\n--json"
    assert (given["temperature"], given["max_tokens"]) == (-1.0, 8)
    assert (given["ignore_eos"], given["trust_remote_code"]) == (True, False)
    assert given["stop"] == ("a b", "--c")
    assert given["limit"] is None
    assert given["as_json"] is False


@pytest.mark.parametrize("name", [*REFUSED, "run-dir"])
def test_an_option_that_would_undo_paid_work_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is none of a task's options"):
        check_options({name: True})


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (["a", "b {{ c }}"], [{"prompt": "a"}, {"prompt": "b {{ c }}"}]),
        ([{"text": "a", "n": 2}, {"text": "b"}], [{"text": "a", "n": 2}, {"text": "b"}]),
        ([], []),
    ],
)
def test_returned_rows_become_lines(
    rows: list[object], lines: list[object], tmp_path: Path
) -> None:
    path = Path(rows_file(rows, str(tmp_path / "o.run")))
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines


def test_a_returned_table_becomes_parquet(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b"], "n": [1, 2]})

    class Frame:  # polars and pandas have this, and are not everywhere
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return table.__arrow_c_stream__(requested_schema)

    for rows in (table, Frame()):
        path = rows_file(rows, str(tmp_path / "o.run"))
        assert path.endswith(".parquet")
        assert pq.read_table(path).equals(table)


def test_a_returned_path_is_the_input(tmp_path: Path) -> None:
    assert rows_file(tmp_path / "in.jsonl", "o.run") == str(tmp_path / "in.jsonl")


def test_the_same_rows_leave_the_file_as_it_is(tmp_path: Path) -> None:
    run_dir = str(tmp_path / "o.run")
    path = Path(rows_file(["a"], run_dir))
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert rows_file(["a"], run_dir) == str(path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert rows_file(["b"], run_dir) == str(path)
    assert json.loads(path.read_text()) == {"prompt": "b"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [(7, "the function returned int"), (["a", 7], "row 1 that the function returned is int")],
)
def test_what_is_no_rows_is_told(rows: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        rows_file(rows, str(tmp_path / "o.run"))


def test_manifest_and_rows_keep_the_contract(tmp_path: Path) -> None:
    job, out, rows_out = (tmp_path / name for name in ("in.jsonl", "o.parquet", "rows.jsonl"))
    job.write_text('{"prompt": "Tell them", "key": "k-0"}\n{"prompt": null, "key": "k-1"}\n')
    options = JobOptions(
        str(job), str(MODEL_DIR), id_column="key", sampling={"max_tokens": 4}, dtype="float32"
    )
    summary = run(options, RunOptions(str(out)))
    run_dir = f"{out}.run"
    write_result_rows(run_dir, str(rows_out))
    manifest = batch_manifest(run_dir, str(rows_out))
    assert manifest["request_count"] == summary.rows == 2
    assert manifest["counts"] == {
        "succeeded": 1,
        "errored": 1,
        "invalid_output": 0,
        "expired": 0,
        "cancelled": 0,
        "missing": 0,
    }
    assert (manifest["schema_version"], manifest["rejoin_key"]) == (1, "index")
    assert (manifest["terminal_reason"], manifest["result_uri"]) == ("partial", str(rows_out))
    assert manifest["submitted_at"] <= manifest["completed_at"]
    assert json.loads(json.dumps(manifest)) == manifest
    first, second = (json.loads(line) for line in rows_out.read_text().splitlines())
    assert list(first) == list(second) == ROW_KEYS
    assert (first["custom_id"], first["index"], first["status"]) == ("k-0", 0, "success")
    assert first["usage"]["output_tokens"] == 4
    assert first["output"]
    assert first["error"] is None
    assert (second["custom_id"], second["index"], second["status"]) == ("k-1", 1, "error")
    assert second["output"] is None
    assert second["error"]["message"]


def test_no_run_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        batch_manifest(str(tmp_path))


def test_without_airflow_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'batchpipe\[airflow\]'"):
        room.BatchPipeOperator  # noqa: B018
