"""Whatever else a frame holds stays as it is: values, types, index and order."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from polars.testing import assert_frame_equal as assert_polars_equal

from batchpipe.api.frames import columns_of, frame_of

TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)
CELLS = {
    "text": TEXTS,
    "whole": st.none() | st.integers(-(2**40), 2**40),
    "real": st.none() | st.floats(allow_nan=False),
    "flag": st.none() | st.booleans(),
    "day": st.none() | st.dates(dt.date(1900, 1, 1), dt.date(2100, 1, 1)),
    "list": st.none() | st.lists(st.integers(0, 9), max_size=3),
}
TYPES = {
    "text": pa.string(),
    "whole": pa.int64(),
    "real": pa.float64(),
    "flag": pa.bool_(),
    "day": pa.date32(),
    "list": pa.list_(pa.int64()),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, unique=True))
    cells = {name: draw(st.lists(CELLS[name], min_size=rows, max_size=rows)) for name in names}
    return pa.table({name: pa.array(cells[name], TYPES[name]) for name in names})


def added_to(table: pa.Table) -> pa.Table:
    """What would be appended to it."""
    texts = [None if row % 3 == 2 else f"answer {row}" for row in range(len(table))]
    tokens = list(range(len(table)))
    return pa.table({"out": pa.array(texts, pa.string()), "tokens": pa.array(tokens, pa.int64())})


@given(tables())
def test_an_arrow_table_keeps_its_columns_and_metadata(table: pa.Table) -> None:
    table = table.replace_schema_metadata({"own": "metadata"})
    added = added_to(table)
    whole = frame_of(table).with_columns(added)
    assert whole.select(table.column_names).equals(table, check_metadata=True)
    assert whole.select(["out", "tokens"]).equals(added)


@given(tables())
def test_a_polars_frame_keeps_its_columns(table: pa.Table) -> None:
    frame = pl.from_arrow(table)
    before = frame.clone()
    whole = frame_of(frame).with_columns(added_to(table))
    assert_polars_equal(whole.select(frame.columns), before)
    assert whole["out"].to_list() == added_to(table)["out"].to_pylist()
    assert whole.schema["out"] == pl.String
    assert_polars_equal(frame, before)


@given(tables(), st.randoms(use_true_random=False))
def test_a_pandas_frame_keeps_its_columns_and_any_index(table: pa.Table, random: object) -> None:
    frame = table.to_pandas()
    labels = [random.choice(["a", "b", 3, None]) for _ in range(len(frame))]  # type: ignore[attr-defined]
    frame.index = pd.Index(labels, name="key", dtype=object)
    frame.attrs["own"] = "attribute"
    before = frame.copy(deep=True)
    whole = frame_of(frame).with_columns(added_to(table))
    assert_frame_equal(whole[list(frame.columns)], before)
    assert [None if pd.isna(cell) else cell for cell in whole["out"]] == added_to(table)[
        "out"
    ].to_pylist()
    assert whole["tokens"].dtype == "int64"
    assert whole.attrs == frame.attrs
    assert_frame_equal(frame, before)


@given(tables())
def test_columns_mean_the_same_from_every_library(table: pa.Table) -> None:
    names = [name for name in table.column_names if name in ("text", "day", "list")]
    expected = table.select(names).to_pylist() if names else None
    for frame in (pl.from_arrow(table), table.to_pandas()):
        found = columns_of(frame_of(frame), names)
        assert found.num_rows == len(table)
        if expected is not None:
            assert found.to_pylist() == expected


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", None, "b"], dtype="string"),
        pd.Series(["a", None, "b"], dtype="category"),
        pd.Series(["a", float("nan"), "b"], dtype=object),
        pd.Series(["a", pd.NA, "b"], dtype=object),
        pd.Series(["a", None, "b"]),
        pd.Series(["a", None, "b"], dtype=pd.ArrowDtype(pa.string())),
    ],
    ids=lambda column: str(column.dtype),
)
def test_every_missing_value_of_pandas_is_null(column: pd.Series) -> None:
    found = columns_of(frame_of(pd.DataFrame({"text": column})), ["text"])
    assert found["text"].to_pylist() == ["a", None, "b"]


def test_columns_that_are_no_texts_do_not_disturb() -> None:
    frame = pd.DataFrame([["a", 1]], columns=pd.MultiIndex.from_tuples([("x", "y"), ("x", "z")]))
    whole = frame_of(frame).with_columns(pa.table({"out": ["b"]}))
    assert list(whole.columns) == [("x", "y"), ("x", "z"), ("out", "")]
    numbered = pd.DataFrame([["a", 1]])
    whole = frame_of(numbered).with_columns(pa.table({"out": ["b"]}))
    assert list(whole.columns) == [0, 1, "out"]


def test_a_subclass_of_pandas_stays_one() -> None:
    class Own(pd.DataFrame):
        @property
        def _constructor(self) -> type[Own]:
            return Own

    assert type(frame_of(Own({"a": [1]})).with_columns(pa.table({"out": ["b"]}))) is Own


def test_polars_categories_and_enums_are_texts() -> None:
    frame = pl.DataFrame(
        {
            "c": pl.Series(["a", None], dtype=pl.Categorical),
            "e": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])),
        }
    )
    assert columns_of(frame_of(frame), ["c", "e"]).to_pylist() == [
        {"c": "a", "e": "x"},
        {"c": None, "e": "y"},
    ]
