"""The input's order, however little fits into memory."""

from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from batchpipe.journal import input_order
from batchpipe.journal.input_order import in_input_order

SCHEMA = pa.schema([("ordinal", pa.int64()), ("output", pa.string())])


def tables(ordinals: list[int], sizes: list[int], long: int) -> list[pa.Table]:
    """Rows with texts of which those from ``long`` on are large."""
    texts = [f"{row}" * (50 if row >= long else 1) for row in ordinals]
    whole = pa.table({"ordinal": ordinals, "output": texts}, schema=SCHEMA)
    cuts = [0, *np.cumsum(sizes).clip(0, len(ordinals)).tolist(), len(ordinals)]
    return [whole.slice(a, b - a) for a, b in pairwise(cuts)]


@given(
    st.integers(0, 300).flatmap(lambda rows: st.permutations(range(rows))),
    st.lists(st.integers(0, 50), max_size=8),
    st.integers(0, 300),
    st.sampled_from([1, 100, 1000, 10_000, 1 << 30]),
)
def test_all_rows_come_in_order(
    ordinals: list[int], sizes: list[int], long: int, most_bytes: int
) -> None:
    parts = tables(ordinals, sizes, long)
    found = list(in_input_order(iter(parts), len(ordinals), most_bytes=most_bytes))
    rows = [row for table in found for row in table.to_pylist()]
    expected = sorted((row for t in parts for row in t.to_pylist()), key=lambda r: r["ordinal"])
    assert rows == expected


@pytest.mark.parametrize("most_bytes", [10, 1 << 30])
@pytest.mark.parametrize("ordinals", [[0, 1, 1, 3], [0, 1, 3], [0, 1, 2, 3, 4], []])
def test_a_row_missing_or_doubled_is_no_result(ordinals: list[int], most_bytes: int) -> None:
    with pytest.raises(AssertionError, match="row"):
        list(in_input_order(tables(ordinals, [2], 0), 4, most_bytes=most_bytes))


def test_temporary_files_are_gone_even_when_nobody_reads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(input_order, "SLICE_ROWS", 3)
    parts = tables(list(range(99, -1, -1)), [10, 20], 50)
    reading = in_input_order(parts, 100, most_bytes=500)
    assert next(reading)["ordinal"].to_pylist()[0] == 0
    assert os.listdir(tmp_path)
    reading.close()
    assert not os.listdir(tmp_path)


def test_no_table_is_longer_than_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_order, "SLICE_ROWS", 7)
    lengths = [len(table) for table in in_input_order(tables(list(range(20)), [], 0), 20)]
    assert lengths == [7, 7, 6]
