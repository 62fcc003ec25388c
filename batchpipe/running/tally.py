"""Sums over the results of a run, taken while they pass by on their way to OUT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc


class Tally:
    """Rows and tokens of all tables that were counted."""

    def __init__(self) -> None:
        self.rows = 0
        self.succeeded = 0
        self.invalid = 0  # answered, but not as was asked
        self.prompt_tokens = 0
        self.uncached_tokens = 0  # prompt tokens that a row had to compute itself
        self.completion_tokens = 0

    def counting(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables; each is counted as it is asked for."""
        for table in tables:
            self.rows += table.num_rows
            self.succeeded += _total(pc.equal(table.column("status"), "success"))
            self.invalid += _total(pc.equal(table.column("status"), "invalid_output"))
            prompt_tokens = _total(table.column("prompt_tokens"))
            self.prompt_tokens += prompt_tokens
            self.uncached_tokens += prompt_tokens - _total(table.column("cached_tokens"))
            self.completion_tokens += _total(table.column("completion_tokens"))
            yield table


def _total(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
