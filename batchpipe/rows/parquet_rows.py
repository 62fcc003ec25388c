"""Rows that are made on the way, as a Parquet file with one type a column."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.rows.batch import Record, Rows
from batchpipe.rows.infer import column_types, typed_column
from batchpipe.rows.output_file import writing

Batches = Callable[[], Iterator[list[Record]]]


def write_rows(out: str, batches: Batches) -> None:
    """OUT holds the rows of all batches, in order, zstd; what no type holds is JSON text.

    The rows are asked for several times, and never all of them are held.
    """
    made = _Made(batches)
    types = column_types(made)
    kinds = [pa.large_string() if kind is None else kind for kind in types.values()]
    schema = pa.schema(list(zip(types, kinds, strict=True)))
    with writing(out) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows in made.batches():
            arrays = [typed_column(rows.values(name), kind) for name, kind in types.items()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


class _Made:
    """The rows with the columns of all of them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        names: dict[str, None] = {}
        for batch in batches():
            for record in batch:
                names |= dict.fromkeys(record)
        self.names = tuple(names)

    def batches(self) -> Iterator[Rows]:
        return (Rows(self.names, records=batch) for batch in self._batches())
