"""The rows that a decorated function returned, as a job file in the run directory."""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.background.room import room_of
from batchpipe.background.watch import look
from batchpipe.errors import ConfigError
from batchpipe.rows.json_text import to_json


def rows_file(rows: object, run_dir: str) -> str:
    """A job file with these rows: a path is one already, a table becomes Parquet, a list lines.

    A file that has them already is not touched, so that a retry goes on with the run of it.

    Raises:
        ConfigError: they are no rows, or others than those that are being answered right now
    """
    if isinstance(rows, (str, os.PathLike)):
        return os.fspath(rows)
    name, content = _packed(rows)
    room = room_of(run_dir)
    path = posixpath.join(room.name, name)
    try:
        if room.get(name) == content:
            return path
    except (FileNotFoundError, NotADirectoryError):
        pass
    if look(run_dir) is None:
        raise ConfigError(
            f"{run_dir}: a process of an earlier try answers other rows than the function returned "
            f"now; let it return the same rows in every try, or give another out"
        )
    room.put(name, content)
    return path


def _packed(rows: object) -> tuple[str, bytes]:
    """The file's name and content."""
    if hasattr(rows, "__arrow_c_stream__"):  # polars, pandas and pyarrow
        stream = io.BytesIO()
        pq.write_table(pa.table(rows), stream)
        return "input.parquet", stream.getvalue()
    if isinstance(rows, Sequence):
        lines = [_line(place, row) for place, row in enumerate(rows)]
        return "input.jsonl", "".join(lines).encode()
    raise ConfigError(
        f"the function returned {type(rows).__name__}; return a list of prompts or of dicts, a "
        f"data frame, or the path of a job file"
    )


def _line(place: int, row: object) -> str:
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise ConfigError(
            f"row {place} that the function returned is {type(row).__name__}: a row is a prompt or "
            f"a dict"
        )
    return f"{to_json(dict(row))}\n"
