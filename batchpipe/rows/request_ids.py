"""The caller's key of each row: unique over the whole job, so that answers can be joined back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchpipe.errors import ConfigError
from batchpipe.rows.batch import Rows, RowSource
from batchpipe.rows.words import listed, shown

DEFAULT_COLUMN = "request_id"
CUSTOM_ID = "custom_id"

Hashes = npt.NDArray[np.int64]


class RequestIds:
    """One id a row: the column's cell as a text, ``row-<ordinal>`` where there is none.

    Raises ``ConfigError`` for a named column that does not exist.
    """

    def __init__(self, source: RowSource, id_column: str | None) -> None:
        self._source = source
        self._column: str | None = id_column or DEFAULT_COLUMN
        if self._column not in source.names:
            if id_column is not None and source.readable:
                raise ConfigError(
                    f"{source.spec} has no column {id_column!r} for --id-column; "
                    f"its columns are {listed(source.names)}"
                )
            self._column = None
        self._seen = _HashSet()
        self._checked = 0  # ordinals that are known to have different ids

    def read(self, rows: Rows) -> list[str]:
        """The ids of these rows, none of which a row of another batch read before has.

        Raises ``ConfigError`` for a cell that is neither a text nor a whole number, and for an id
        that two rows share.
        """
        ids = self._ids(rows)
        if self._column is not None and rows.first + len(rows) > self._checked:
            new = ids[max(0, self._checked - rows.first) :]
            if self._seen.add(np.array([hash(each) for each in new], dtype=np.int64)):
                self._refuse_twins(self._column, rows.first + len(rows))
            self._checked = rows.first + len(rows)
        return ids

    def _ids(self, rows: Rows) -> list[str]:
        column = self._column
        if column is None:
            return [f"row-{ordinal}" for ordinal in range(rows.first, rows.first + len(rows))]
        cells = rows.values(column)
        return [_text(column, ordinal, cell) for ordinal, cell in enumerate(cells, rows.first)]

    def _refuse_twins(self, column: str, end: int) -> None:
        """``ConfigError`` where two of the ordinals ``[0, end)`` have one id, not only one hash."""
        of_requests = column == CUSTOM_ID  # what APIs call it, in files that people edit by line
        fix = "choose another column with --id-column or drop the column"
        if of_requests:
            fix = "give one of the two another"
        first: dict[str, str] = {}
        for rows in self._source.batches():
            if rows.first >= end:
                return
            for place, request_id in enumerate(self._ids(rows)):
                where = rows.where(place) if of_requests else f"row {rows.first + place}"
                if first.setdefault(request_id, where) != where:
                    raise ConfigError(
                        f"{column} {shown(request_id)} is on {first[request_id]} and on {where}, "
                        f"and ids must be unique: {fix}"
                    )


class _HashSet:
    """Hashes in sorted runs of falling length: 8 bytes each, where a set takes 80."""

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def add(self, hashes: Hashes) -> bool:
        """They are in it; True where one of them was before, or is among them twice."""
        hashes = np.sort(hashes)
        twice = bool((hashes[1:] == hashes[:-1]).any())
        for run in self._runs:
            places = np.searchsorted(run, hashes)
            twice = twice or bool((run[np.minimum(places, len(run) - 1)] == hashes).any())
        while self._runs and len(self._runs[-1]) <= len(hashes):
            hashes = np.sort(np.concatenate([self._runs.pop(), hashes]), kind="stable")
        if len(hashes):
            self._runs.append(hashes)
        return twice


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
