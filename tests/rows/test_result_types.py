"""Values keep their types on the way to OUT, exactly where OUT has a form for them."""

from __future__ import annotations

import base64
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_jobs import (
    answered,
    cut_small,
    good_answers,
    read_back,
    text_lines,
    write,
)

from batchpipe.rows.source import open_source


def test_json_columns_become_arrow_columns(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "whole": [1, None, 3],
        "real": [1, 2.5, None],
        "text": ["a", "b", None],
        "list": [[1], [], None],
        "struct": [{"a": 1}, {"b": "x"}, None],
        "never": [None, None, None],
        "mixed": ["a", 1, None],
        "flags": [True, 1, None],
        "hollow": [{}, None, None],
        "huge": [2**70, 1, None],
        "broken": ["\ud800", "fine", None],
        "keyed": [{f"id{i}": i for i in range(300)}, {}, None],
        "": ["no name", None, None],
        "bad\ud800": [1, 2, 3],
    }
    lines = [json.dumps({name: cells[i] for name, cells in columns.items()}) for i in range(3)]
    out = tmp_path / "out.parquet"
    write(text_lines(tmp_path, *lines), good_answers(3), out)
    written = pq.read_table(out)
    kept = ["whole", "text", "list", ""]
    assert {name: written[name].to_pylist() for name in kept} == {n: columns[n] for n in kept}
    assert written["real"].to_pylist() == [1.0, 2.5, None]
    assert written["struct"].to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}, None]
    assert written.schema.field("never").type == pa.string()
    assert written["bad\\ud800"].to_pylist() == [1, 2, 3]
    for name in ("mixed", "flags", "hollow", "huge", "broken", "keyed"):
        texts = written[name].to_pylist()
        assert [None if text is None else json.loads(text) for text in texts] == columns[name]


def test_numbers_that_are_whole_in_one_batch_and_not_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubles where a double holds every one of them, JSON text where it does not."""
    exact, inexact = 2**53, 2**53 + 1
    rows = [{"x": exact, "y": inexact, "z": {"n": 1}}, {"x": 0.5, "y": 0.5, "z": {"n": 0.5}}]
    source = text_lines(tmp_path, *map(json.dumps, rows))
    cut_small(monkeypatch, rows=1)
    answered(source, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["x"].to_pylist() == [float(exact), 0.5]
    assert written["y"].to_pylist() == [str(inexact), "0.5"]
    assert written["z"].to_pylist() == [{"n": 1.0}, {"n": 0.5}]


def test_true_is_no_number(tmp_path: Path) -> None:
    rows = [{"x": 0.5, "y": [0.5]}, {"x": True, "y": [True]}]
    answered(text_lines(tmp_path, *map(json.dumps, rows)), tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["x"].to_pylist() == ["0.5", "true"]
    assert written["y"].to_pylist() == ["[0.5]", "[true]"]


def test_arrow_values_become_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "day": pa.array([datetime.date(2024, 2, 29)]),
            "when": pa.array([0], pa.timestamp("ms", "UTC")),
            "nanos": pa.array([1], pa.timestamp("ns")),
            "clock": pa.array([datetime.time(1, 2, 3)]),
            "span": pa.array([datetime.timedelta(seconds=90)]),
            "bytes": pa.array([b"\x00\xff"]),
            "money": pa.array([decimal.Decimal("1.10")]),
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "deep": pa.array([[{"b": b"x"}]]),
            "nan": pa.array([float("nan")]),
        }
    )
    pq.write_table(table, tmp_path / "jobs.parquet")
    source = open_source(str(tmp_path / "jobs.parquet"))
    write(source, good_answers(1), tmp_path / "out.jsonl", with_token_ids=True)
    (written,) = read_back(tmp_path / "out.jsonl")
    assert written.pop("nan") != 0
    assert {name: written[name] for name in table.column_names[:-1]} == {
        "day": "2024-02-29",
        "when": "1970-01-01T00:00:00+00:00",
        "nanos": "1970-01-01 00:00:00.000000001",
        "clock": "01:02:03",
        "span": 90.0,
        "bytes": base64.b64encode(b"\x00\xff").decode(),
        "money": "1.10",
        "map": [["k", 1]],
        "deep": [{"b": "eA=="}],
    }
    assert written["output_token_ids"] == [0, 7]


def every_type() -> pa.Table:
    """One column of each kind that a Parquet file can hold, twice over with nulls."""
    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    moment = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    columns = {
        "prompt": pa.array(["b", "a", "b", None, ""]),
        "chat": pa.array([[{"role": "u", "content": None}], [], None, [None], []], chat),
        "nested": pa.array([{"x": {"y": [1, None]}}, None, {"x": None}, {"x": {"y": []}}, None]),
        "seconds": pa.array([1, None, 3, 4, 5], pa.timestamp("ms", "Europe/Berlin")),
        "nanos": pa.array([1, 2, None, 2**60, 5], pa.timestamp("ns")),
        "zoned": pa.array([moment] * 5, pa.timestamp("us", "UTC")),
        "span": pa.array([1, None, 3, 4, 5], pa.duration("ns")),
        "clock": pa.array([1, None, 3, 4, 5], pa.time64("ns")),
        "day": pa.array([0, None, -1, 4, 5], pa.date32()),
        "money": pa.array([decimal.Decimal("1.10"), None] * 2 + [None], pa.decimal128(20, 2)),
        "wide": pa.array([decimal.Decimal("1.10")] * 5, pa.decimal256(50, 4)),
        "blob": pa.array([b"\x00\xff", b"", None, b"x", b"y"]),
        "code": pa.array([b"abc", None, b"def", b"abc", b"abc"], pa.binary(3)),
        "long": pa.array(["x"] * 5, pa.large_string()),
        "half": pa.array([1.5, None, 2, 3, 4], pa.float16()),
        "tiny": pa.array([1, None, 3, -4, 5], pa.int8()),
        "big": pa.array([2**64 - 1, None, 3, 4, 5], pa.uint64()),
        "pair": pa.array([[1, 2], [3, None], [5, 6], [7, 8], [9, 0]], pa.list_(pa.int16(), 2)),
        "map": pa.array([[("k", 1)], [], None, [], []], pa.map_(pa.string(), pa.int64())),
        "nothing": pa.nulls(5),
        "kind": pa.array(["x", "y", "x", None, "z"]).dictionary_encode(),
        "level": pa.DictionaryArray.from_arrays(
            pa.array([1, 0, 1, 2, None], pa.int8()), ["low", "mid", "top"], ordered=True
        ),
    }
    schema = pa.schema(
        [
            pa.field(name, array.type, metadata={"of": name} if name == "prompt" else None)
            for name, array in columns.items()
        ],
        metadata={"made": "by a test", "bytes": b"\xff\x00"},
    )
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


@pytest.mark.parametrize("batch_rows", [10_000, 4, 1])
def test_parquet_passes_through_exactly(
    tmp_path: Path, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several row groups and files, each with dictionaries of its own, and rows twice."""
    table = every_type()
    other = table.set_column(
        table.schema.get_field_index("kind"),
        table.schema.field("kind"),
        pa.array(["q", "x", None, "q", "w"]).dictionary_encode(),
    )
    with pq.ParquetWriter(tmp_path / "in.parquet", table.schema) as writer:
        for part in (table, other.slice(0, 3), other, table):
            writer.write_table(part)
    cut_small(monkeypatch, rows=batch_rows)
    source = open_source(str(tmp_path / "in.parquet"))
    answered(source, tmp_path / "out.parquet", at_once=3)
    before = pq.read_table(tmp_path / "in.parquet")
    after = pq.read_table(tmp_path / "out.parquet")
    assert len(before) == 18
    own = after.select(table.column_names)
    assert own.equals(before, check_metadata=True)
    assert own.schema.equals(before.schema, check_metadata=True)
    assert after.schema.field("prompt").metadata == {b"of": b"prompt"}
    assert after["output"].to_pylist() == [f"answer {ordinal}" for ordinal in range(18)]


def test_a_required_text_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    texts = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    schema = pa.schema([pa.field("prompt", pa.string(), nullable=False)])
    table = pa.Table.from_arrays([texts], schema=schema)
    pq.write_table(table, tmp_path / "in.parquet", store_schema=False)
    source = open_source(str(tmp_path / "in.parquet"))
    answered(source, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["prompt"].to_pylist() == ["fine", ""]
    assert list(source.read().faults) == [1]
