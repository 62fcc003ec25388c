"""The caller's key of each row: unique over the whole job, so that answers can be joined back."""

from __future__ import annotations

from batchpipe.errors import ConfigError
from batchpipe.rows.source import Rows
from batchpipe.rows.words import listed, shown

DEFAULT_COLUMN = "request_id"


def read_request_ids(rows: Rows, id_column: str | None) -> tuple[str, ...]:
    """One id a row: the column's cell as a text, ``row-<ordinal>`` where there is none.

    Raises ``ConfigError`` for a named column that does not exist, a cell that is neither a text
    nor a whole number, and an id that two rows share.
    """
    column = id_column or DEFAULT_COLUMN
    if column not in rows.names:
        if id_column is not None:
            raise ConfigError(
                f"{rows.source} has no column {column!r} for --id-column; "
                f"its columns are {listed(rows.names)}"
            )
        return tuple(f"row-{ordinal}" for ordinal in range(len(rows)))
    ids = tuple(_text(column, ordinal, cell) for ordinal, cell in enumerate(rows.values(column)))
    if len(set(ids)) < len(ids):
        _refuse_twins(column, ids)
    return ids


def _text(column: str, ordinal: int, cell: object) -> str:
    if cell is None or cell != cell:  # pandas writes a missing number as NaN
        return f"row-{ordinal}"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    if isinstance(cell, float) and cell.is_integer():  # pandas stores integers with gaps so
        return str(int(cell))
    raise ConfigError(
        f"{column} of row {ordinal} is {shown(cell)}; an id must be a text or a whole number: "
        f"choose another column with --id-column"
    )


def _refuse_twins(column: str, ids: tuple[str, ...]) -> None:
    first: dict[str, int] = {}
    for ordinal, request_id in enumerate(ids):
        if first.setdefault(request_id, ordinal) != ordinal:
            raise ConfigError(
                f"{column} {shown(request_id)} is on row {first[request_id]} and on row {ordinal}, "
                f"and ids must be unique: choose another column with --id-column "
                f"or drop the column"
            )
