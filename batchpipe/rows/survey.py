"""What one job file holds, found out without keeping any of its rows; and its rows, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from batchpipe.rows.batch import Piece
from batchpipe.rows.jsonl import line_pieces, read_lines
from batchpipe.rows.location import Location, reading, state_of
from batchpipe.rows.parquet import open_table, table_pieces

# Parsed JSON takes up to six times the bytes of its line: a list of small numbers does.
_BYTES_OF_A_LINES_BYTE = 4


@dataclass(frozen=True, slots=True)
class Survey:
    """The rows and columns of one file, of which at most ``limit`` rows are asked for."""

    location: Location
    limit: int | None
    state: str
    rows: int
    names: tuple[str, ...]  # in first-seen order
    schema: pa.Schema | None  # of a Parquet file
    readable: bool  # some row of it could be read


def survey(location: Location, limit: int | None) -> Survey:
    """What the file holds now; ``ConfigError`` naming it where it cannot be read to its end."""
    state = state_of(location)
    if location.format == "parquet":
        rows, schema = _footer(location, limit)
        return Survey(location, limit, state, rows, tuple(schema.names), schema, rows > 0)
    rows, readable = 0, False
    names: dict[str, None] = {}
    with reading(location) as stream:
        for _, _, record, _ in read_lines(stream, location.name, limit=limit):
            rows += 1
            if record is not None:
                readable = True
                names |= dict.fromkeys(record)
    return Survey(location, limit, state, rows, tuple(names), None, readable)


def _footer(location: Location, limit: int | None) -> tuple[int, pa.Schema]:
    with reading(location) as stream:
        file = open_table(stream, location.path)
        if file is None:
            return 0, pa.schema([])
        rows = int(file.metadata.num_rows)
        return rows if limit is None else min(limit, rows), file.schema_arrow


def pieces_of(surveyed: Survey, *, most_rows: int, most_bytes: int) -> Iterator[Piece]:
    """The file's rows as it has them now, in order; read again at every call."""
    location, limit = surveyed.location, surveyed.limit
    with reading(location) as stream:
        if location.format == "parquet":
            yield from table_pieces(
                stream,
                location.path,
                location.name,
                limit=limit,
                most_rows=most_rows,
                most_bytes=most_bytes,
            )
        else:
            yield from line_pieces(
                stream,
                location.name,
                limit=limit,
                most_rows=most_rows,
                most_bytes=most_bytes // _BYTES_OF_A_LINES_BYTE,
            )
