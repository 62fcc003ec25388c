"""Any rows in, the same rows out: properties over generated files."""

from __future__ import annotations

import json
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_jobs import answered, cut_small

from batchpipe.rows.logprob_columns import LOGPROB_COLUMNS
from batchpipe.rows.results import COLUMNS
from batchpipe.rows.source import open_source, read_rows

texts = st.text(st.characters(codec=None, exclude_categories=[]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["prompt", "output", "input_output", "status", "n", ""]) | texts
sizes = st.integers(1, 9)
json_rows = st.lists(st.dictionaries(names, values, max_size=5), max_size=8)


def strictly_equal(left: Any, right: Any) -> bool:
    """Equal in type too: 1, 1.0 and true are three things."""
    return json.dumps(left) == json.dumps(right)


@given(json_rows, st.booleans(), st.sampled_from(["", ".gz", ".zst"]), sizes, sizes)
@settings(max_examples=150)
def test_json_lines_come_back_unchanged(
    table: list[dict[str, Any]],
    ascii_only: bool,
    packing: str,
    batch_rows: int,
    answer_rows: int,
) -> None:
    lines = []
    for row in table:
        line = json.dumps(row, ensure_ascii=ascii_only)
        try:
            lines.append(line.encode())
        except UnicodeEncodeError:
            lines.append(json.dumps(row).encode())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.jsonl").write_bytes(b"\n".join(lines))
        source = open_source(f"{folder}/in.jsonl")
        with pytest.MonkeyPatch.context() as patch:
            cut_small(patch, rows=batch_rows)
            assert not any(rows.faults for rows in source.batches())
            answered(source, f"{folder}/out.jsonl{packing}", at_once=answer_rows)
        answers = read_rows(f"{folder}/out.jsonl{packing}")
    assert len(answers) == len(table)
    hidden = {"parsed", "outputs", "finish_reasons", "output_token_ids", *LOGPROB_COLUMNS}
    taken = [name for name in COLUMNS if name not in hidden]
    for ordinal, (before, after) in enumerate(zip(table, answers.records, strict=True)):
        assert after is not None
        assert after["output"] == f"answer {ordinal}"
        kept = [after[name] for name in list(after)[: -len(taken)]]
        assert strictly_equal(kept, list(before.values()))
        for name, value in before.items():
            if name not in taken:
                assert strictly_equal(after[name], value)


arrow_columns = {
    "text": (pa.string(), st.text()),
    "long": (pa.large_string(), st.text()),
    "number": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "real": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "flag": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.binary()),
    "exact": (pa.timestamp("ns", "UTC"), st.integers(-(2**62), 2**62)),
    "span": (pa.duration("us"), st.integers(-(2**50), 2**50)),
    "ids": (pa.list_(pa.int32()), st.lists(st.integers(0, 2**31 - 1), max_size=4)),
    "chat": (
        pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.none() | st.text()})),
    ),
    "map": (
        pa.map_(pa.string(), pa.int8()),
        st.lists(st.tuples(st.text(), st.just(1)), max_size=2),
    ),
    "money": (pa.decimal128(9, 2), st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 4)),
    "category": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["x", "y", "z"])),
    "ordered": (pa.dictionary(pa.int32(), pa.large_string(), ordered=True), st.text(max_size=1)),
    "pair": (pa.list_(pa.float64(), 2), st.lists(st.floats(0, 1), min_size=2, max_size=2)),
    "day": (pa.date32(), st.dates()),
    "output": (pa.string(), st.text()),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    height = draw(st.integers(0, 7))
    chosen = draw(st.lists(st.sampled_from(sorted(arrow_columns)), unique=True))
    columns = {}
    for name in chosen:
        kind, cells = arrow_columns[name]
        column = draw(st.lists(st.none() | cells, min_size=height, max_size=height))
        columns[name] = pa.array(column, kind)
    return pa.table(columns)


@given(tables(), sizes, sizes, sizes)
@settings(max_examples=150)
def test_parquet_columns_come_back_equal(
    table: pa.Table, group_rows: int, batch_rows: int, answer_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        pq.write_table(table, f"{folder}/in.parquet", row_group_size=group_rows)
        before = pq.read_table(f"{folder}/in.parquet")
        source = open_source(f"{folder}/in.parquet")
        cut_small(patch, rows=batch_rows)
        answered(source, f"{folder}/out.parquet", at_once=answer_rows)
        answered(source, f"{folder}/out.jsonl", at_once=answer_rows)
        after = pq.read_table(f"{folder}/out.parquet")
        lines = read_rows(f"{folder}/out.jsonl")
    assert after.num_rows == len(lines) == len(source) == len(table)
    assert after["output"].to_pylist() == [f"answer {ordinal}" for ordinal in range(len(table))]
    kept = [f"input_{name}" if name == "output" else name for name in table.column_names]
    own = after.select(kept).rename_columns(table.column_names)
    assert own.equals(before)
    assert own.schema.equals(before.schema, check_metadata=True)
    plain = [name for name in kept if name != "exact"]  # datetime has no nanoseconds
    assert after.select(plain).to_pylist() == table.rename_columns(kept).select(plain).to_pylist()
    assert not lines.faults
    if "text" in kept and len(table):
        assert lines.values("text") == table["text"].to_pylist()


@given(json_rows, sizes)
@settings(max_examples=200)
def test_parquet_of_json_lines_is_the_same_whatever_the_batches(
    table: list[dict[str, Any]], batch_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder, "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
        source = open_source(f"{folder}/in.jsonl")
        answered(source, f"{folder}/whole.parquet")
        cut_small(patch, rows=batch_rows)
        answered(source, f"{folder}/cut.parquet")
        whole, cut = (pq.read_table(f"{folder}/{name}.parquet") for name in ("whole", "cut"))
    assert cut.schema.equals(whole.schema, check_metadata=True)
    assert strictly_equal(cut.to_pylist(), whole.to_pylist())


@given(st.lists(st.floats(), min_size=1))
@settings(max_examples=50)
def test_numbers_that_json_has_no_word_for_come_back(numbers: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"x": number}) for number in numbers]
        Path(folder, "in.jsonl").write_text("\n".join(lines))
        answered(open_source(f"{folder}/in.jsonl"), f"{folder}/out.jsonl")
        back: list[Any] = read_rows(f"{folder}/out.jsonl").values("x")
    for before, after in zip(numbers, back, strict=True):
        assert before == after or (math.isnan(before) and math.isnan(after))
