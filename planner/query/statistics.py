"""What is known of a workflow's rows, values and texts before it runs.

All of it can be counted from the input and the author's texts; where nothing is said, an assumption
stands in. Knows nothing of a tokenizer or of how an input is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Statistics:
    """Counts and means, each by the name that it is of."""

    rows: Mapping[str, float]  # of each level; the input's at least
    distinct: Mapping[tuple[str, ...], float] = field(default_factory=dict)  # different values that
    # these columns have together, names sorted; see `Counts.together_read`
    column_tokens: Mapping[str, float] = field(default_factory=dict)  # of a value, the mean
    static_tokens: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by operator: of
    # each block, in the author's order, what is the same in every prompt
    output_tokens: Mapping[str, float] = field(default_factory=dict)  # by operator: of an answer
    kept: Mapping[str, float] = field(default_factory=dict)  # by filter: share of rows that go on
    prompts_per_row: Mapping[str, float] = field(default_factory=dict)  # by operator: where it is
    # not 1, such as a vote's samples


def distinct_values(
    table: pa.Table, column_sets: Iterable[tuple[str, ...]]
) -> dict[tuple[str, ...], float]:
    """How many different values these columns of the input have together, set by set."""
    columns = {name: _comparable(table.column(name)) for each in column_sets for name in each}
    comparable = pa.table(columns)
    return {
        each: float(comparable.group_by(list(each)).aggregate([]).num_rows) for each in column_sets
    }


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, lists and objects as their JSON, which Arrow can tell apart."""
    if not pa.types.is_nested(column.type):
        return column
    texts = (json.dumps(value, default=str, sort_keys=True) for value in column.to_pylist())
    return pa.chunked_array([pa.array(texts, pa.string())])
