"""What is known of every row, in a few arrays: which part has its result, and how that ended.

The newest result of a row counts, save that a failed one of a later repair replaces no success.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchpipe.rows.results import Result

Ordinals = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

NO_PART = -1
SUCCESS = 0  # code of that status


class Words:
    """Numbers for the few words that a column has."""

    def __init__(self, *words: str | None) -> None:
        self._codes: dict[str | None, int] = {word: code for code, word in enumerate(words)}

    def code(self, word: str | None) -> int:
        """The word's number, a new one for a new word."""
        return self._codes.setdefault(word, len(self._codes))

    def codes(self, column: pa.ChunkedArray) -> Codes:
        """The number of each row's word."""
        encoded = column.combine_chunks().dictionary_encode()
        known = [self.code(word) for word in encoded.dictionary.to_pylist()]
        codes = np.array([*known, self.code(None)], dtype=np.uint8)
        found: Codes = codes[encoded.indices.fill_null(len(known)).to_numpy()]
        return found

    def counts(self, codes: Codes) -> dict[str, int]:
        """How often each word is there, "none" for no word."""
        found = np.bincount(codes, minlength=len(self._codes)).tolist()
        return {
            word or "none": count for word, count in zip(self._codes, found, strict=True) if count
        }


class RowStates:
    """Every row's state; rows are 0 to ``rows``."""

    def __init__(self, rows: int) -> None:
        self.statuses, self.finish_reasons = Words("success"), Words(None)
        self.winner = np.full(rows, NO_PART, dtype=np.int32)  # the part whose result counts
        self.latest = np.full(rows, NO_PART, dtype=np.int32)  # the part with the newest attempt
        self.attempted = np.full(rows, -1, dtype=np.int32)  # repairs begun at the newest attempt
        self.required = np.zeros(rows, dtype=np.int32)  # the last repair that selected the row
        self.status = np.zeros(rows, dtype=np.uint8)  # of the result that counts
        self.finish_reason = np.zeros(rows, dtype=np.uint8)
        self.finished = 0
        self.failed = 0  # of the finished

    def add(self, results: Sequence[Result], part: int, repair: int) -> None:
        """The newest results of these rows, none of which was finished, are in this part."""
        count = len(results)
        rows = np.fromiter((result.ordinal for result in results), np.int64, count)
        unfinished = self.attempted[rows] < self.required[rows]
        assert unfinished.all(), f"row {rows[~unfinished][0]} is finished and has another result"
        assert len(np.unique(rows)) == count, f"a row of {rows.tolist()} has two results"
        status, finish_reason = self.statuses.code, self.finish_reasons.code
        statuses = np.fromiter((status(result.status) for result in results), np.uint8, count)
        finish_reasons = np.fromiter(
            (finish_reason(result.finish_reason) for result in results), np.uint8, count
        )
        self._take(rows, part, repair, statuses, finish_reasons)
        self.finished += count
        self.failed += int((self.status[rows] != SUCCESS).sum())

    def load(self, table: pa.Table, part: int, repair: int) -> None:
        """The rows of a part have their newest results in it; `count` is due afterwards."""
        rows = table["ordinal"].to_numpy()
        assert (self.attempted[rows] < repair).all(), f"a row of part {part} has two results"
        statuses = self.statuses.codes(table["status"])
        self._take(rows, part, repair, statuses, self.finish_reasons.codes(table["finish_reason"]))

    def _take(
        self, rows: Ordinals, part: int, repair: int, statuses: Codes, finish_reasons: Codes
    ) -> None:
        wins = statuses == SUCCESS
        wins |= (self.winner[rows] == NO_PART) | (self.status[rows] != SUCCESS)
        self.attempted[rows] = repair
        self.latest[rows] = part
        self.winner[rows[wins]] = part
        self.status[rows[wins]] = statuses[wins]
        self.finish_reason[rows[wins]] = finish_reasons[wins]

    def require(self, rows: Ordinals, repair: int) -> None:
        """These rows are to be answered once more; `count` is due afterwards."""
        self.required[rows] = repair

    def count(self) -> None:
        """The running totals are those of the arrays."""
        done = self.done()
        self.finished = int(done.sum())
        self.failed = int((done & (self.status != SUCCESS)).sum())

    def done(self) -> npt.NDArray[np.bool_]:
        """Which rows need nothing more."""
        is_done: npt.NDArray[np.bool_] = self.attempted >= self.required
        return is_done

    def needed(self, rows: Ordinals, part: int) -> npt.NDArray[np.bool_]:
        """Which of these rows need their results in this part: the last attempt is kept too."""
        is_needed: npt.NDArray[np.bool_] = self.winner[rows] == part
        is_needed |= self.latest[rows] == part
        return is_needed

    def move(self, rows: Ordinals, sources: npt.NDArray[np.int32], target: int) -> None:
        """What these rows had in the parts ``sources`` they have in the part ``target``."""
        for kept in (self.winner, self.latest):
            moved = rows[np.isin(kept[rows], sources)]
            kept[moved] = target

    def needed_parts(self) -> set[int]:
        """Parts with a row that needs them."""
        return {*np.unique(self.winner).tolist(), *np.unique(self.latest).tolist()} - {NO_PART}

    def select(self, statuses: set[str], finish_reasons: set[str]) -> Ordinals:
        """Rows whose result has one of these statuses or one of these finish reasons."""
        status = [self.statuses.code(word) for word in statuses]
        finish_reason = [self.finish_reasons.code(word) for word in finish_reasons]
        chosen = np.isin(self.status, status) | np.isin(self.finish_reason, finish_reason)
        return np.flatnonzero(chosen & (self.winner != NO_PART))
