"""An input's columns as a workflow reads them: what kinds of values they hold, and samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from batchpipe.rows.source import Source
from batchpipe.workflow.lowering.lower import columns_read
from batchpipe.workflow.lowering.types import ANY, Type, type_of_arrow, type_of_values
from batchpipe.workflow.steps import Flow

LOOKED_AT = 1000  # of the first rows, where a file does not say what its columns hold


def input_types(source: Source, flow: Flow) -> dict[str, Type]:
    """The kind of values of each column: as Parquet says, or as the first JSON lines have them.

    Lines without a single row have whatever columns the workflow reads.

    Raises:
        ConfigError: a mistake in the texts by which the workflow reads them
    """
    if source.schema is not None:
        return {field.name: type_of_arrow(field.type) for field in source.schema}
    if not source.readable:
        return dict.fromkeys(columns_read(flow), ANY)
    rows = list(first_rows(source, source.names))
    return {name: type_of_values(row.get(name) for row in rows) for name in source.names}


def first_rows(source: Source, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """These columns of the first rows; a key that a JSON line lacks is absent."""
    rows = (row for batch in source.batches() for row in batch.mappings(names))
    return islice(rows, LOOKED_AT)
