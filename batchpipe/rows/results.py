"""One result a row, and the file of all of them: input columns first, then the answer."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.rows.arrow import BATCH_ROWS
from batchpipe.rows.atomic import written_whole
from batchpipe.rows.infer import infer_column
from batchpipe.rows.json_text import to_json
from batchpipe.rows.output_path import check_output, output_format
from batchpipe.rows.source import Rows

__all__ = ["Result", "check_output", "write_results"]

Status = Literal["success", "error", "invalid_output"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one row; ``outputs`` has all samples where the row asked for several."""

    ordinal: int
    output: str | None = None
    outputs: tuple[str, ...] | None = None
    status: Status = "success"
    finish_reason: FinishReason | None = None
    error: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    output_token_ids: tuple[int, ...] | None = None  # of the first sample

    @classmethod
    def failed(cls, ordinal: int, sentence: str) -> Result:
        """The result of a row that got no answer, with the reason."""
        return cls(ordinal, status="error", error=sentence)


# Result column -> Arrow type, in the order of the file.
COLUMNS: dict[str, pa.DataType] = {
    "output": pa.string(),
    "outputs": pa.list_(pa.string()),
    "status": pa.string(),
    "finish_reason": pa.string(),
    "error": pa.string(),
    "prompt_tokens": pa.int64(),
    "cached_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "output_token_ids": pa.list_(pa.int32()),
}


def write_results(rows: Rows, results: Sequence[Result], out: str, *, with_token_ids: bool) -> None:
    """OUT holds one row per input row, in input order: its own columns, then the result's.

    The format follows OUT's ending. ``outputs`` is there where some row has several. An input
    column of a result column's name is kept as ``input_<name>``. OUT appears whole or not at all;
    a full disk is an ``OSError``.
    """
    assert len(results) == len(rows), f"{len(results)} results for {len(rows)} rows"
    for ordinal, result in enumerate(results):
        assert result.ordinal == ordinal, f"result {result.ordinal} in the place of {ordinal}"
    several = any(result.outputs is not None for result in results)
    dropped = set() if several else {"outputs"}
    if not with_token_ids:
        dropped.add("output_token_ids")
    columns = [name for name in COLUMNS if name not in dropped]
    write = write_parquet if output_format(out) == "parquet" else write_lines
    with written_whole(out) as stream, _packed(stream, out) as packed:
        write(packed, rows, results, columns)


@contextmanager
def _packed(stream: BinaryIO, out: str) -> Iterator[BinaryIO]:
    if out.lower().endswith(".gz"):
        with gzip.GzipFile(filename="", fileobj=stream, mode="wb", mtime=0) as packed:
            yield cast(BinaryIO, packed)
    elif out.lower().endswith(".zst"):
        # Arrow closes the file under it, and this one is still to be synced.
        with (
            os.fdopen(os.dup(stream.fileno()), "wb") as twin,
            pa.CompressedOutputStream(pa.PythonFile(twin, mode="w"), "zstd") as packed,
        ):
            yield packed
    else:
        yield stream


def kept_names(names: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Input column -> its name in the results: its own, save where a result column has that."""
    taken = {*names, *columns}
    kept: dict[str, str] = {}
    for name in names:
        new = name
        while new in columns or (new != name and new in taken):
            new = f"input_{new}"
        taken.add(new)
        kept[name] = new
    return kept


def write_lines(
    stream: BinaryIO, rows: Rows, results: Sequence[Result], columns: Sequence[str]
) -> None:
    """One JSON object a line; rows from JSON lines keep the keys and types that they had."""
    kept = kept_names(rows.names, columns)
    unreadable = dict.fromkeys(rows.names)
    inputs = (
        rows.mappings(rows.names)
        if rows.table is not None
        else iter(unreadable if record is None else record for record in rows.records)
    )
    for row, result in zip(inputs, results, strict=True):
        line: dict[str, object] = {kept[name]: value for name, value in row.items()}
        line.update((name, getattr(result, name)) for name in columns)
        stream.write(to_json(line).encode() + b"\n")


def write_parquet(
    stream: BinaryIO, rows: Rows, results: Sequence[Result], columns: Sequence[str]
) -> None:
    """Parquet, zstd, in row groups of at most 10,000 rows."""
    table = _input_table(rows, columns)
    fields = [*table.schema, *(pa.field(name, COLUMNS[name]) for name in columns)]
    schema = pa.schema(fields, metadata=table.schema.metadata)
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for start in range(0, len(rows), BATCH_ROWS):
            part = results[start : start + BATCH_ROWS]
            arrays = [
                *table.slice(start, BATCH_ROWS).columns,
                *(_result_column(part, name) for name in columns),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _result_column(results: Sequence[Result], name: str) -> pa.Array:
    return pa.array([getattr(result, name) for result in results], COLUMNS[name])


def _input_table(rows: Rows, columns: Sequence[str]) -> pa.Table:
    kept = kept_names(rows.names, columns)
    if rows.table is not None:
        return rows.table.rename_columns([kept[name] for name in rows.table.column_names])
    # A name with half a surrogate pair has no place in a Parquet file.
    names = [kept[name].encode("utf-8", "backslashreplace").decode() for name in rows.names]
    arrays = [infer_column(rows.values(name)) for name in rows.names]
    return pa.Table.from_arrays(arrays, names=names)
