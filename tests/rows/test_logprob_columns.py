"""Columns of log-probabilities have what the cells had, nulls and empty lists apart."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.rows.logprob_columns import LOGPROB_COLUMNS, TOKEN, asked_columns, column_of

tops = st.fixed_dictionaries(
    {"token_id": st.integers(0, 9), "token": st.text(max_size=2), "logprob": st.just(-0.5)}
)
told = st.fixed_dictionaries(
    {
        "token_id": st.integers(0, 9),
        "token": st.text(max_size=2),
        "logprob": st.just(-1.5) | st.none(),
        "rank": st.integers(1, 5) | st.none(),
        "top": st.lists(tops, max_size=2) | st.none(),
    }
)
cells = st.lists(told, max_size=3)


def array(cell: list[dict[str, Any]]) -> pa.Array:
    return pa.array(cell, TOKEN)


@given(st.lists(st.none() | cells, max_size=5))
def test_a_column_is_its_cells(rows: list[list[dict[str, Any]] | None]) -> None:
    arrays = [None if row is None else array(row) for row in rows]
    column = column_of(arrays, LOGPROB_COLUMNS["logprobs"])
    column.validate(full=True)
    assert column.to_pylist() == rows


@given(st.lists(st.none() | st.lists(cells, max_size=3), max_size=4))
def test_a_column_of_samples_is_its_cells(rows: list[Any]) -> None:
    arrays = [None if row is None else tuple(map(array, row)) for row in rows]
    column = column_of(arrays, LOGPROB_COLUMNS["outputs_logprobs"])
    column.validate(full=True)
    assert column.to_pylist() == rows


def test_samples_are_told_with_the_answers() -> None:
    assert asked_columns({"logprobs": 1}, ["prompt"]) == {"logprobs", "outputs_logprobs"}
    assert asked_columns({}, ["prompt_logprobs"], ["n"]) == {"prompt_logprobs"}
    assert asked_columns({}, ["prompt"]) == frozenset()
