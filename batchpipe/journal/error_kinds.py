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
    example_error: str


def kind_of(sentence: str) -> str:
    """The sentence without what differs from row to row."""
    return _VALUES.sub("…", sentence)


class ErrorKinds:
    """Counts the kinds of the errors that pass by."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._seen: list[tuple[int, Ordinals, npt.NDArray[np.int64], list[str]]] = []

    def see(self, part: Part, table: pa.Table) -> None:
        """Rows of a part, with their errors."""
        failed = table.filter(pc.is_valid(table["error"]))
        if not failed.num_rows:
            return
        numbers = np.empty(failed.num_rows, dtype=np.int64)
        for place, sentence in enumerate(failed["error"].to_pylist()):
            numbers[place] = self._numbers.setdefault(kind_of(sentence), len(self._numbers))
        _, firsts = np.unique(numbers, return_index=True)
        examples = failed["error"].take(firsts).to_pylist()
        self._seen.append((part.number, failed["ordinal"].to_numpy(), numbers, examples))

    def counted(self, winner: npt.NDArray[np.int32]) -> list[ErrorKind]:
        """The kinds of the results that count, the most frequent first.

        Args:
            winner: by row, the part whose result counts
        """
        rows = np.zeros(len(self._numbers), dtype=np.int64)
        first: dict[int, tuple[int, str]] = {}
        for part, ordinals, numbers, examples in self._seen:
            counts = winner[ordinals] == part
            rows += np.bincount(numbers[counts], minlength=len(rows))
            found = np.unique(numbers)
            for number, example in zip(found.tolist(), examples, strict=True):
                of_kind = ordinals[counts & (numbers == number)]
                if len(of_kind) and of_kind[0] < first.get(number, (np.inf, ""))[0]:
                    first[number] = (int(of_kind[0]), example)
        kinds = [
            ErrorKind(text, int(rows[number]), *first[number])
            for text, number in self._numbers.items()
            if rows[number]
        ]
        return sorted(kinds, key=lambda kind: (-kind.rows, kind.error))[:MOST_KINDS]
