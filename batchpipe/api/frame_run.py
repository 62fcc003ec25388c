"""A dataframe's columns as a run that is kept: job file, results and journal in one directory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.api.jobs import run_with
from batchpipe.api.model import Model
from batchpipe.api.sentences import python_words
from batchpipe.errors import ConfigError
from batchpipe.journal.folder import open_folder
from batchpipe.journal.lock import refuse_foreign
from batchpipe.journal.manifest import read_manifest
from batchpipe.rows.arrow import content_hashes
from batchpipe.rows.output_path import output_exists
from batchpipe.rows.results import COLUMNS
from batchpipe.rows.source import read_rows
from batchpipe.running.progress import Watcher

ROWS, RESULTS = "input.parquet", "results.parquet"


def durable_results(
    model: Model,
    table: pa.Table,
    options: dict[str, Any],
    run_dir: str,
    watcher: Watcher,
) -> pa.Table:
    """The rows' results; those that an earlier call finished there are not computed again.

    Raises:
        ConfigError: the directory is the run of other rows, another model or other options
        StoppedEarly: what is finished is there, and the same call goes on
    """
    results = f"{run_dir}/{RESULTS}"
    with python_words():
        rows = _put_rows(table, run_dir)
    run_with(model, options | {"input": rows}, {"out": results, "run_dir": run_dir}, watcher)
    found = read_rows(results).table
    assert found is not None, "results.parquet is a table"
    return found.select([name for name in COLUMNS if name in found.column_names])


def _put_rows(table: pa.Table, run_dir: str) -> str:
    """The job file with these rows; no run that is there loses its own.

    Raises:
        ConfigError: the directory is another run's, or no run's
    """
    folder, name = open_folder(run_dir), f"{run_dir}/{ROWS}"
    refuse_foreign(folder)
    if read_manifest(folder) is None:
        stream = pa.BufferOutputStream()
        pq.write_table(table, stream)
        folder.put(ROWS, bytes(stream.getvalue()))
    elif not output_exists(name) or _hashes(read_rows(name).table) != _hashes(table):
        raise ConfigError(
            f"{run_dir} holds a run of other rows; give another run_dir, or remove this one"
        )
    return name


def _hashes(table: pa.Table | None) -> list[str]:
    """The content of every row, whichever library's types it comes in."""
    return [] if table is None else content_hashes(table)
