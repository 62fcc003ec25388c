"""A job file that changes between two passes over it is found out and named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_jobs import content

from batchpipe.rows.source import InputChanged, Source, open_source

LINES = b'{"prompt": "a", "n": 1}\n{"prompt": "b", "tag": [1, "x"]}\n'


def surveyed(folder: Path, form: str) -> tuple[Source, Callable[[list[Any]], None]]:
    """A job of five rows, and what writes other rows over it."""
    path = folder / f"jobs.{form}"

    def rewrite(rows: list[Any]) -> None:
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    rewrite([{"a": n} for n in range(5)])
    return open_source(str(folder)), rewrite


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    "rows",
    [
        [{"a": 1}] * 4,
        [{"a": 1}] * 6,
        [],
        [{"a": 1, "new": 2}] * 5,
    ],
)
def test_a_file_that_changed_between_two_passes_is_named(
    tmp_path: Path, form: str, rows: list[Any]
) -> None:
    source, rewrite = surveyed(tmp_path, form)
    assert sum(map(len, source.batches())) == 5
    rewrite(rows)
    sentence = rf"jobs.{form} changed .*; restore it and run the same command again"
    with pytest.raises(InputChanged, match=sentence):
        list(source.batches())


def test_a_column_of_another_type_is_a_change(tmp_path: Path) -> None:
    source, rewrite = surveyed(tmp_path, "parquet")
    rewrite([{"a": "text"}] * 5)
    with pytest.raises(InputChanged, match=r"its columns or their types are others; restore it"):
        list(source.batches())


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_file_that_is_gone_or_unreadable_is_a_change(tmp_path: Path, form: str) -> None:
    source, _ = surveyed(tmp_path, form)
    path = tmp_path / f"jobs.{form}"
    if form == "parquet":
        path.write_bytes(b"PAR1 no more")
        with pytest.raises(InputChanged, match=r"jobs.parquet changed .*not a readable Parquet"):
            list(source.batches())
    path.unlink()
    with pytest.raises(InputChanged, match=rf"jobs.{form} changed .*cannot be read"):
        list(source.batches())


def test_the_same_content_written_again_is_no_change(tmp_path: Path) -> None:
    source, rewrite = surveyed(tmp_path, "jsonl")
    before = [content(rows) for rows in source.batches()]
    rewrite([{"a": n} for n in range(5)])
    assert [content(rows) for rows in source.batches()] == before


def test_rows_beyond_the_limit_may_change(tmp_path: Path) -> None:
    _, rewrite = surveyed(tmp_path, "jsonl")
    source = open_source(str(tmp_path), limit=3)
    rewrite([{"a": n} for n in range(9)])
    assert sum(map(len, source.batches())) == 3


def test_the_state_tells_that_a_file_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(LINES)
    os.utime(path, (1000, 1000))
    state = open_source(str(path)).files[0].state
    assert open_source(str(path)).files[0].state == state
    os.utime(path, (1000, 2000))
    assert open_source(str(path)).files[0].state != state
    path.write_bytes(LINES + LINES)
    os.utime(path, (1000, 1000))
    assert open_source(str(path)).files[0].state != state


def test_a_url_is_read_again_at_every_pass() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/batches/a.jsonl", LINES)
    table = pa.table({"prompt": ["c"]})
    with memory.open("/batches/b.parquet", "wb") as stream:
        pq.write_table(table, stream)
    try:
        source = open_source("memory://batches")
        state = [file.state for file in source.files]
        for _ in range(2):
            assert [rows.values("prompt") for rows in source.batches()] == [["a", "b", "c"]]
        memory.pipe("/batches/a.jsonl", LINES + LINES)
        assert [file.state for file in open_source("memory://batches").files] != state
        with pytest.raises(InputChanged, match=r"memory:///batches/a.jsonl changed"):
            list(source.batches())
    finally:
        memory.rm("/batches", recursive=True)
