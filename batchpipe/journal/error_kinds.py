"""Error sentences that differ only in their figures and quoted values are one kind of error."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.journal.manifest import Part
from batchpipe.journal.row_states import Ordinals

_VALUES = re.compile(
    r"""
    (?<!\w) ' [^']* ' (?!\w) | " [^"]* " | ` [^`]* `
    | (?<![\w.]) [-+]? \d (?: [\d,_.]* [\d_] )? (?: e [-+]? \d+ )?
    """,
    re.VERBOSE,
)
MOST_KINDS = 100


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """Rows that failed alike."""

    error: str  # figures and quoted values are an ellipsis
    rows: int
    example: int  # the first row of this kind


def kind_of(sentence: str) -> str:
    """The sentence without what differs from row to row."""
    return _VALUES.sub("…", sentence)


class ErrorKinds:
    """Counts the kinds of the errors that pass by."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._seen: list[tuple[int, Ordinals, npt.NDArray[np.int64]]] = []

    def see(self, part: Part, table: pa.Table) -> None:
        """Rows of a part, with their errors."""
        failed = table.filter(pc.is_valid(table["error"]))
        if not failed.num_rows:
            return
        numbers = np.empty(failed.num_rows, dtype=np.int64)
        for place, sentence in enumerate(failed["error"].to_pylist()):
            numbers[place] = self._numbers.setdefault(kind_of(sentence), len(self._numbers))
        self._seen.append((part.number, failed["ordinal"].to_numpy(), numbers))

    def counted(self, winner: npt.NDArray[np.int32]) -> list[ErrorKind]:
        """The kinds of the results that count, the most frequent first.

        Args:
            winner: by row, the part whose result counts
        """
        rows = np.zeros(len(self._numbers), dtype=np.int64)
        first = np.full(len(self._numbers), np.iinfo(np.int64).max)
        for part, ordinals, numbers in self._seen:
            counts = winner[ordinals] == part
            rows += np.bincount(numbers[counts], minlength=len(rows))
            np.minimum.at(first, numbers[counts], ordinals[counts])
        kinds = [
            ErrorKind(text, int(rows[number]), int(first[number]))
            for text, number in self._numbers.items()
            if rows[number]
        ]
        return sorted(kinds, key=lambda kind: (-kind.rows, kind.error))[:MOST_KINDS]
