"""The few rows of a run that a report shows, picked while all of them pass by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

MOST_FAILED = 200
MOST_EXAMPLES = 6
MOST_CHARACTERS = 2000
SPREAD = 2_654_435_761  # Knuth's multiplier: neighbouring rows land far apart


@dataclass(frozen=True, slots=True)
class ShownRow:
    """What became of one row."""

    row: int
    status: str
    finish_reason: str | None
    error: str | None
    output: str | None  # what the model said, cut where it is long
    prompt_tokens: int
    answer_tokens: int


class ShownRows:
    """The first rows that failed, and a sample of those that did not."""

    def __init__(self) -> None:
        self._failed: list[ShownRow] = []
        self._examples: list[ShownRow] = []

    def see(self, table: pa.Table) -> None:
        """These results are among those to pick from."""
        good = pc.equal(table["status"], "success")
        failed = _rows(table.filter(pc.invert(good)), rank=_by_row, most=MOST_FAILED)
        examples = _rows(table.filter(good), rank=_by_chance, most=MOST_EXAMPLES)
        self._failed = _first(self._failed + failed, rank=_by_row, most=MOST_FAILED)
        self._examples = _first(self._examples + examples, rank=_by_chance, most=MOST_EXAMPLES)

    @property
    def failed(self) -> tuple[ShownRow, ...]:
        """The first, by row."""
        return tuple(self._failed)

    @property
    def examples(self) -> tuple[ShownRow, ...]:
        """The same ones whatever parts the rows come in, by row."""
        return tuple(sorted(self._examples, key=lambda each: each.row))

    @property
    def ordinals(self) -> set[int]:
        """Of all these rows."""
        return {each.row for each in (*self._failed, *self._examples)}


Numbers = npt.NDArray[np.uint64]
Rank = Callable[[Numbers], Numbers]  # of rows; the first by it are shown


def _by_row(rows: Numbers) -> Numbers:
    return rows


def _by_chance(rows: Numbers) -> Numbers:
    return (rows * np.uint64(SPREAD)) % np.uint64(1 << 32)


def _first(rows: list[ShownRow], *, rank: Rank, most: int) -> list[ShownRow]:
    """Those of least rank."""
    ranks = rank(np.array([each.row for each in rows], dtype=np.uint64))
    return [rows[place] for place in np.argsort(ranks, kind="stable")[:most].tolist()]


def _rows(table: pa.Table, *, rank: Rank, most: int) -> list[ShownRow]:
    """The rows of least rank."""
    ranks = rank(table["ordinal"].to_numpy().astype(np.uint64))
    some = table.take(pa.array(np.argsort(ranks, kind="stable")[:most]))
    return [
        ShownRow(
            row=each["ordinal"],
            status=each["status"],
            finish_reason=each["finish_reason"],
            error=_cut(each["error"]),
            output=_cut(each["output"]),
            prompt_tokens=each["prompt_tokens"],
            answer_tokens=each["completion_tokens"],
        )
        for each in some.to_pylist()
    ]


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]}… ({len(text):,} characters)"
