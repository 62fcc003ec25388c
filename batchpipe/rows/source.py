"""Job files as one table of rows that is read a batch at a time, and again whenever it is needed.

No more than a batch is in memory, so that a job may have more text than the machine has memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from batchpipe.errors import BatchpipeError, ConfigError
from batchpipe.rows.batch import Piece, Rows, SourceFile, joined_rows
from batchpipe.rows.location import find_files, state_of
from batchpipe.rows.survey import Survey, pieces_of, survey
from batchpipe.rows.view import View, viewed

__all__ = ["InputChanged", "Rows", "Source", "SourceFile", "open_source", "read_rows"]

BATCH_ROWS = 10_000
BATCH_BYTES = 64 << 20


class InputChanged(BatchpipeError):
    """A job file is not what it was when the run looked at it first."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """All input rows, on disk or wherever they are; every pass over them reads them again."""

    spec: str
    files: tuple[SourceFile, ...]
    surveys: tuple[Survey, ...]  # [files]
    names: tuple[str, ...]  # columns of all files, in first-seen order
    schema: pa.Schema | None  # of all files together; None with any JSON lines
    view: View | None = None  # how lines that are requests to an API become a job's rows

    def __len__(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def readable(self) -> bool:
        """False where nothing is known to be in it: no rows, or lines of which none is a row."""
        return any(surveyed.readable for surveyed in self.surveys)

    @property
    def from_arrow(self) -> bool:
        """True where some cell comes from Parquet, whose structs have all keys of their column."""
        return any(file.format == "parquet" for file in self.files)

    @property
    def are_requests(self) -> bool:
        """True where the rows are made of requests to an API."""
        return self.view is not None

    def through(self, view: View) -> Source:
        """The same lines, read as the rows that the view makes of them."""
        assert self.schema is None, "Parquet files hold rows, not lines"
        return replace(self, names=view.columns, view=view)

    @property
    def plain(self) -> Source:
        """The same lines as they are."""
        return self if self.view is None else replace(self, names=_names(self.surveys), view=None)

    def batches(self) -> Iterator[Rows]:
        """All rows in order, at most 10,000 and about 64 MB at a time.

        Raises `InputChanged` where they cannot be the rows of the first look.
        """
        first = rows = size_bytes = 0
        pieces: list[Piece] = []
        for piece in self._pieces():
            full = rows + len(piece) > BATCH_ROWS or size_bytes + piece.size_bytes > BATCH_BYTES
            if pieces and full:
                yield self._joined(pieces, first)
                first, pieces, rows, size_bytes = first + rows, [], 0, 0
            pieces.append(piece)
            rows, size_bytes = rows + len(piece), size_bytes + piece.size_bytes
        if pieces:
            yield self._joined(pieces, first)

    def read(self) -> Rows:
        """All rows at once."""
        return self._joined(list(self._pieces()), 0)

    def _joined(self, pieces: list[Piece], first: int) -> Rows:
        rows = joined_rows(
            pieces, names=self.names, files=self.files, first=first, schema=self.schema
        )
        return rows if self.view is None else viewed(rows, self.view)

    def _pieces(self) -> Iterator[Piece]:
        for surveyed in self.surveys:
            yield from self._pieces_of(surveyed)

    def _pieces_of(self, surveyed: Survey) -> Iterator[Piece]:
        """The rows of one file, as many as the survey found, in the form of the whole source."""
        path = surveyed.location.path
        read = 0
        try:
            for piece in pieces_of(surveyed, most_rows=BATCH_ROWS, most_bytes=BATCH_BYTES):
                read += len(piece)
                if read > surveyed.rows:
                    raise _changed(path, f"it has more than the {surveyed.rows:,} rows that it had")
                yield self._in_form(piece, surveyed)
        except ConfigError as error:
            if _has_other_state(surveyed):
                raise _changed(path, str(error)) from error
            raise
        if read < surveyed.rows:
            raise _changed(path, f"it has {read:,} rows and had {surveyed.rows:,}")

    def _in_form(self, piece: Piece, surveyed: Survey) -> Piece:
        """The piece with the columns of the whole source; as records where JSON lines are in."""
        path = surveyed.location.path
        if piece.table is None:
            known = set(surveyed.names)
            for record in piece.records:
                if record is not None and not record.keys() <= known:
                    new = next(name for name in record if name not in known)
                    raise _changed(path, f"it has a column {new!r}, which it had not")
            return piece
        assert surveyed.schema is not None
        if not piece.table.schema.equals(surveyed.schema):
            raise _changed(path, "its columns or their types are others")
        if self.schema is None:
            return piece.as_records()
        table = _with_schema(piece.table, self.schema)
        return Piece(piece.size_bytes, piece.faults, table=table)


def open_source(spec: str, *, limit: int | None = None) -> Source:
    """The rows of every job file that ``spec`` names, in order of file name, at most ``limit``.

    ``spec`` is a Parquet or JSON-lines file, a directory, a glob or an fsspec URL of these. Only
    JSON lines are read for this, and none of them kept. Raises ``ConfigError`` naming the file
    that is missing, of another format or cut short. A row that cannot be read stays in its place
    as a fault.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"limit is {limit}; it must be 0 or more")
    surveys: list[Survey] = []
    files: list[SourceFile] = []
    first = 0
    for location in find_files(spec):
        if limit is not None and first >= limit and files:
            break
        found = survey(location, None if limit is None else limit - first)
        surveys.append(found)
        files.append(
            SourceFile(
                location.path, location.name, location.format, found.rows, first, found.state
            )
        )
        first += found.rows
    schema = _common_schema(spec, surveys)
    return Source(spec, tuple(files), tuple(surveys), _names(surveys), schema)


def read_rows(spec: str, *, limit: int | None = None) -> Rows:
    """All rows that `open_source` finds, in memory at once: for what is small."""
    return open_source(spec, limit=limit).read()


def _names(surveys: Sequence[Survey]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for found in surveys for name in found.names))


def _common_schema(spec: str, surveys: list[Survey]) -> pa.Schema | None:
    schemas = [found.schema for found in surveys if found.schema is not None]
    if len(schemas) < len(surveys):
        return None
    whole = [schema for schema in schemas if schema.names] or schemas[:1]
    try:
        return pa.unify_schemas(whole, promote_options="permissive") if whole[1:] else whole[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ConfigError(f"the files of {spec} disagree on a column's type: {error}") from error


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows in exactly these columns, null in those that the table lacks."""
    if not table.schema.equals(schema):
        table = pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
    return pa.Table.from_arrays(table.columns, schema=schema)


def _has_other_state(surveyed: Survey) -> bool:
    try:
        return state_of(surveyed.location) != surveyed.state
    except ConfigError:
        return True


def _changed(path: str, how: str) -> InputChanged:
    return InputChanged(
        f"{path} changed while the run needs it: {how}; restore it and run the same command again"
    )
