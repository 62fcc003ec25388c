"""Results as Parquet: a Parquet input's columns exactly, those of JSON lines with one type each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from batchpipe.rows.batch import Rows, RowSource
from batchpipe.rows.infer import column_types, typed_column
from batchpipe.structured.column import Column

Types = Mapping[str, pa.DataType | None]  # None: JSON text


def write_parquet(
    stream: BinaryIO,
    source: RowSource,
    answered: Iterator[tuple[Rows, pa.Table]],
    kept: Mapping[str, str],
    answers: pa.Schema,
    parsed: Column | None = None,
) -> None:
    """One row per row, zstd: the input's columns by their ``kept`` names, then the ``answers``.

    ``parsed`` is what becomes of the JSON texts in the answers' column of that name. A row group
    has at most 10,000 rows, and one dictionary of a categorical column.
    """
    types = column_types(source) if source.schema is None else {}
    columns = _typed_columns(types, kept) if source.schema is None else _own_columns(source, kept)
    if parsed is not None:
        place = answers.get_field_index("parsed")
        answers = answers.set(place, answers.field(place).with_type(parsed.type))
    schema = pa.schema([*columns, *answers], metadata=columns.metadata)
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows, answer in answered:
            if parsed is not None:
                values = parsed.array(answer.column("parsed"))
                answer = answer.set_column(place, answers.field(place), values)
            arrays = [*_arrays(rows, types), *answer.columns]
            table = pa.Table.from_arrays(arrays, schema=schema)
            for start, end in _row_groups(table):
                writer.write_table(table.slice(start, end - start))


def _own_columns(source: RowSource, kept: Mapping[str, str]) -> pa.Schema:
    assert source.schema is not None
    fields = [field.with_name(kept[field.name]) for field in source.schema]
    return pa.schema(fields, metadata=source.schema.metadata)


def _typed_columns(types: Types, kept: Mapping[str, str]) -> pa.Schema:
    """A name with half a surrogate pair has no place in a Parquet file, and is written escaped."""
    names = [kept[name].encode("utf-8", "backslashreplace").decode() for name in types]
    kinds_of = [pa.large_string() if kind is None else kind for kind in types.values()]
    return pa.schema(list(zip(names, kinds_of, strict=True)))


def _arrays(rows: Rows, types: Types) -> list[pa.ChunkedArray]:
    if rows.table is not None:
        return list(rows.table.columns)
    return [typed_column(rows.values(name), kind) for name, kind in types.items()]


def _row_groups(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Ranges of rows in which no column's dictionary changes: a row group has room for one."""
    cuts = {0, table.num_rows}
    for column in table.columns:
        if not _has_dictionary(column.type):
            continue
        end = 0
        for chunk in column.chunks:
            end += len(chunk)
            cuts.add(end)
    bounds = sorted(cuts)
    yield from pairwise(bounds)


def _has_dictionary(kind: pa.DataType) -> bool:
    if kinds.is_dictionary(kind):
        return True
    return any(_has_dictionary(kind.field(index).type) for index in range(kind.num_fields))
