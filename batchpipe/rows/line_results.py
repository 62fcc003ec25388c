"""Results as JSON lines: rows that came from JSON lines keep the keys and types that they had."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import BinaryIO

import pyarrow as pa

from batchpipe.rows.json_text import to_json
from batchpipe.rows.source import Rows, Source


def write_lines(
    stream: BinaryIO,
    source: Source,
    answered: Iterator[tuple[Rows, pa.Table]],
    kept: Mapping[str, str],
    answers: pa.Schema,
) -> None:
    """One JSON object a row: the input's cells by their ``kept`` names, then the ``answers``."""
    for rows, answer in answered:
        assert answer.column_names == answers.names, f"{answer.column_names} of {answers.names}"
        for row, added in zip(input_cells(rows), answer.to_pylist(), strict=True):
            if added.get("parsed") is not None:
                added["parsed"] = json.loads(added["parsed"])
            line = {kept[name]: value for name, value in row.items()}
            stream.write(to_json(line | added).encode() + b"\n")


def input_cells(rows: Rows) -> Iterable[Mapping[str, object]]:
    """Each row's cells by column, as they came."""
    if rows.table is not None:
        return rows.mappings(rows.names)
    unreadable = dict.fromkeys(rows.names)
    return (unreadable if record is None else record for record in rows.records)
