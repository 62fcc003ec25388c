"""Small job files and the answers to their rows, for the tests of this folder."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchpipe.rows import source as source_module
from batchpipe.rows.results import COLUMNS, Result, write_results
from batchpipe.rows.source import Rows, Source, open_source

ANSWER_SCHEMA = pa.schema(list(COLUMNS.items()))


def lines_of(folder: Path, rows: list[dict[str, Any]]) -> Source:
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(str(path))


def table_of(folder: Path, rows: list[dict[str, Any]]) -> Source:
    pq.write_table(pa.Table.from_pylist(rows), folder / "jobs.parquet")
    return open_source(str(folder / "jobs.parquet"))


def answer_tables(results: Sequence[Result], at_once: int = 10_000) -> Iterator[pa.Table]:
    """The results as they come from a journal, some rows at a time."""
    for start in range(0, len(results), at_once):
        part = results[start : start + at_once]
        columns = [[getattr(result, name) for result in part] for name in COLUMNS]
        yield pa.Table.from_arrays(
            [pa.array(c, t) for c, t in zip(columns, COLUMNS.values(), strict=True)],
            schema=ANSWER_SCHEMA,
        )


def write(
    source: Source,
    results: Sequence[Result],
    out: str | Path,
    *,
    with_token_ids: bool = False,
    at_once: int = 10_000,
) -> None:
    write_results(
        source,
        answer_tables(results, at_once),
        str(out),
        with_token_ids=with_token_ids,
        several=any(result.outputs is not None for result in results),
    )


def answered(source: Source, out: str | Path, at_once: int = 10_000) -> None:
    """Every row has its ordinal in its answer."""
    results = [Result(ordinal, output=f"answer {ordinal}") for ordinal in range(len(source))]
    write(source, results, out, at_once=at_once)


def cut_small(
    patch: pytest.MonkeyPatch, rows: int | None = None, size_bytes: int | None = None
) -> None:
    """Batches have at most so many rows, and about so many bytes, from now on."""
    if rows is not None:
        patch.setattr(source_module, "BATCH_ROWS", rows)
    if size_bytes is not None:
        patch.setattr(source_module, "BATCH_BYTES", size_bytes)


def text_lines(folder: Path, *lines: str) -> Source:
    (folder / "jobs.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return open_source(str(folder / "jobs.jsonl"))


def good_answers(count: int) -> list[Result]:
    return [
        Result(
            ordinal,
            output=f"answer {ordinal}",
            finish_reason="stop",
            prompt_tokens=5,
            cached_tokens=4,
            completion_tokens=2,
            output_token_ids=(ordinal, 7),
        )
        for ordinal in range(count)
    ]


def read_back(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if path.suffix == ".zst":
        raw = pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read()
    return [json.loads(line) for line in raw.decode().split("\n")[:-1]]


def content(rows: Rows) -> list[tuple[Any, ...]]:
    """Everything that a row is, and its ordinal."""
    return [
        (rows.first + place, rows.identity(place), rows.faults.get(place), json.dumps(row))
        for place, row in enumerate(rows.mappings(rows.names))
    ]
