"""How long prompts and answers were: counted a table at a time, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUANTILES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
MOST_BINS = 32


@dataclass(frozen=True, slots=True)
class Bin:
    """So many rows have a length in ``low:high``."""

    low: int
    high: int
    rows: int


class Lengths:
    """How many rows have each length; its memory is that of the longest."""

    def __init__(self) -> None:
        self.counts = np.zeros(0, dtype=np.int64)

    def add(self, lengths: npt.NDArray[np.int64]) -> None:
        """These rows count too."""
        more = np.bincount(lengths, minlength=len(self.counts))
        more[: len(self.counts)] += self.counts
        self.counts = more

    @property
    def rows(self) -> int:
        """All that were counted."""
        return int(self.counts.sum())

    def quantiles(self) -> dict[str, int]:
        """The lengths that so many of the rows do not exceed; none of no rows."""
        if not self.rows:
            return {}
        below = np.cumsum(self.counts)
        wanted = [max(1, int(np.ceil(share * below[-1]))) for share in QUANTILES.values()]
        found = np.searchsorted(below, wanted).tolist()
        return dict(zip(QUANTILES, found, strict=True))

    def bins(self) -> tuple[Bin, ...]:
        """All rows in at most `MOST_BINS` bins of one round width, from shortest to longest."""
        there = np.flatnonzero(self.counts)
        if not len(there):
            return ()
        width = _round_width(int(there[-1]) + 1 - int(there[0]))
        first = int(there[0]) // width
        count = int(there[-1]) // width + 1 - first
        rows = np.bincount(there // width - first, weights=self.counts[there], minlength=count)
        return tuple(
            Bin((first + place) * width, (first + place + 1) * width, int(each))
            for place, each in enumerate(rows.tolist())
        )


def _round_width(span: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, ... by which so many lengths make few enough bins."""
    power = 1
    while True:
        for width in (power, 2 * power, 5 * power):
            if span <= (MOST_BINS - 1) * width:  # one more where the first begins below them
                return width
        power *= 10
