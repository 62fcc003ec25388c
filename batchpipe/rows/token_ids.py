"""Columns of token ids as one flat array; a Parquet list column never becomes Python numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.planner.request import Prompts, TokenIds
from batchpipe.rows.arrow import IntArray, NumberLists, number_lists
from batchpipe.rows.source import Rows
from batchpipe.rows.words import shown

LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """The prompts of those rows that have token ids, and a sentence for each that has none."""

    rows: npt.NDArray[np.int64]  # rising  # [prompts]
    prompts: Prompts
    faults: dict[int, str]


class _BadIds(ValueError):
    """The message is the row's fault sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a piece of the column has; its numbers as they are, some of them perhaps of no row."""

    rows: npt.NDArray[np.int64]
    flat: IntArray
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    faults: dict[int, str]


def read_token_ids(rows: Rows, column: str) -> TokenRows:
    """Every cell of the column checked; what is good lies in one array, in order of the rows."""
    parts: list[_Part] = []
    first = 0
    for cells in _pieces(rows, column):
        if isinstance(cells, NumberLists):
            parts.append(_read_lists(column, cells, first))
        else:
            parts.append(_read_cells(column, cells, first))
        first += len(cells)
    faults: dict[int, str] = {}
    for part in parts:
        faults |= part.faults
    found = [part.rows for part in parts]
    return TokenRows(
        np.concatenate(found) if found else np.zeros(0, dtype=np.int64),
        _joined([(part.flat, part.starts, part.ends) for part in parts]),
        faults,
    )


def joined(parts: Sequence[Prompts]) -> Prompts:
    """The prompts of all parts over one array; a single part is looked at without a copy."""
    return _joined([(part.token_ids, part.starts, part.ends) for part in parts])


def _joined(
    parts: Sequence[tuple[IntArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]],
) -> Prompts:
    """One array of int32 from flat numbers, starts and ends; what is of no prompt may wrap."""
    if not parts:
        return Prompts.pack([])
    flats = [flat for flat, _, _ in parts]
    sizes = np.array([len(flat) for flat in flats], dtype=np.int64)
    begins = (np.cumsum(sizes) - sizes).tolist()
    if len(parts) == 1:
        token_ids = flats[0].astype(np.int32, copy=False)
    else:
        token_ids = np.concatenate(flats, dtype=np.int32, casting="unsafe")
    return Prompts(
        token_ids,
        np.concatenate([part[1] + begin for part, begin in zip(parts, begins, strict=True)]),
        np.concatenate([part[2] + begin for part, begin in zip(parts, begins, strict=True)]),
    )


def _pieces(rows: Rows, column: str) -> Iterator[NumberLists | list[object]]:
    if rows.table is None:
        yield rows.values(column)
        return
    for chunk in rows.table.column(column).chunks:
        lists = number_lists(chunk)
        yield chunk.to_pylist() if lists is None else lists


def _read_lists(column: str, lists: NumberLists, first: int) -> _Part:
    flat, offsets = lists.flat, lists.offsets
    faults = dict.fromkeys(np.flatnonzero(np.diff(offsets) == 0).tolist(), f"{column} is empty")
    if len(flat) and (flat.min() < 0 or flat.max() > LARGEST_ID):
        wrong = np.flatnonzero((flat < 0) | (flat > LARGEST_ID))
        owners, at = np.unique(np.searchsorted(offsets, wrong, "right") - 1, return_index=True)
        for row, place in zip(owners.tolist(), wrong[at].tolist(), strict=True):
            faults[row] = _wrong_id(column, place - int(offsets[row]), int(flat[place]))
    faults |= dict.fromkeys(lists.nulls.tolist(), f"{column} is null")
    good = np.ones(len(lists), dtype=np.bool_)
    good[list(faults)] = False
    return _Part(
        rows=first + np.flatnonzero(good),
        flat=flat,
        starts=offsets[:-1][good],
        ends=offsets[1:][good],
        faults={first + row: faults[row] for row in sorted(faults)},
    )


def _read_cells(column: str, cells: Iterable[object], first: int) -> _Part:
    good: list[int] = []
    lists: list[TokenIds] = []
    faults: dict[int, str] = {}
    for row, cell in enumerate(cells, first):
        try:
            lists.append(_token_ids(column, cell))
            good.append(row)
        except _BadIds as bad:
            faults[row] = str(bad)
    packed = Prompts.pack(lists)
    rows = np.array(good, dtype=np.int64)
    return _Part(rows, packed.token_ids, packed.starts, packed.ends, faults)


def _token_ids(column: str, cell: object) -> TokenIds:
    if cell is None:
        raise _BadIds(f"{column} is null")
    if not isinstance(cell, list):
        raise _BadIds(f"{column} is {shown(cell)}, not a list of token ids")
    if len(cell) == 0:
        raise _BadIds(f"{column} is empty")
    for place, token in enumerate(cell):
        if type(token) is not int or not 0 <= token <= LARGEST_ID:
            raise _BadIds(_wrong_id(column, place, token))
    return np.array(cell, dtype=np.int32)


def _wrong_id(column: str, place: int, token: object) -> str:
    return (
        f"{column}[{place}] is {shown(token)}; a token id is a whole number from 0 to {LARGEST_ID}"
    )
