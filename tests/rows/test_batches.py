"""The input is read a batch at a time, again at every pass, and is the same every time."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_jobs import (
    content,
    cut_small,
    lines_of,
)

from batchpipe.errors import ConfigError
from batchpipe.rows.source import open_source, read_rows

FORMS = ["jsonl", "parquet", "mixed"]


def write_files(folder: Path, counts: list[int], form: str, group_rows: int) -> None:
    """Files with so many rows each; every third line is not JSON."""
    for number, count in enumerate(counts):
        texts = [f"{number}.{row}" for row in range(count)]
        if form == "parquet" or (form == "mixed" and number % 2):
            table = pa.table({"prompt": texts, f"only_{number}": list(range(count))})
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=group_rows)
        else:
            lines = [
                json.dumps({"prompt": text}) if row % 3 else f"no {text}"
                for row, text in enumerate(texts)
            ]
            (folder / f"{number}.jsonl").write_text("\n".join(lines))


@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    form=st.sampled_from(FORMS),
    group_rows=st.integers(1, 4),
    batch_rows=st.integers(1, 9),
    batch_bytes=st.integers(1, 400),
    limit=st.none() | st.integers(0, 20),
)
def test_batches_are_the_rows_whatever_their_size(
    counts: list[int],
    form: str,
    group_rows: int,
    batch_rows: int,
    batch_bytes: int,
    limit: int | None,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        write_files(Path(folder), counts, form, group_rows)
        whole = read_rows(folder, limit=limit)
        cut_small(patch, rows=batch_rows, size_bytes=batch_bytes)
        source = open_source(folder, limit=limit)
        for _ in range(2):
            batches = list(source.batches())
            assert [row for rows in batches for row in content(rows)] == content(whole)
            assert all(0 < len(rows) <= batch_rows for rows in batches)
            assert {rows.names for rows in batches} <= {source.names}
            if source.schema is not None:
                assert all(rows.table.schema.equals(source.schema) for rows in batches)
    expected = sum(counts) if limit is None else min(limit, sum(counts))
    assert len(source) == len(whole) == expected
    assert whole.names == source.names


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_batch_has_about_so_many_bytes(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Parquet a repeated text lies once on disk and once a row in memory."""
    rows = [{"prompt": "long " * 200}] * 500
    if form == "jsonl":
        source = lines_of(tmp_path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "jobs.parquet")
        assert os.path.getsize(tmp_path / "jobs.parquet") < 10_000
        source = open_source(str(tmp_path / "jobs.parquet"))
    cut_small(monkeypatch, size_bytes=100_000)
    sizes = [len(batch) for batch in source.batches()]
    assert sum(sizes) == 500
    assert max(sizes) * 1000 <= 110_000
    assert len(sizes) <= 25


def test_small_files_and_row_groups_share_a_batch(tmp_path: Path) -> None:
    write_files(tmp_path, [3, 4, 2], "parquet", group_rows=1)
    [rows] = open_source(str(tmp_path)).batches()
    assert len(rows) == 9
    assert rows.file_of(3)[0].name == "1.parquet"


def test_input_without_rows_has_no_batches(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    assert list(open_source(str(tmp_path)).batches()) == []


def test_a_survey_of_parquet_reads_no_rows(tmp_path: Path) -> None:
    """What the footer tells is known even where the rows themselves are damaged."""
    table = pa.table({"prompt": [f"text {i * i}" for i in range(5000)]})
    pq.write_table(table, tmp_path / "jobs.parquet")
    damaged = bytearray((tmp_path / "jobs.parquet").read_bytes())
    damaged[4:400] = bytes(396)
    (tmp_path / "jobs.parquet").write_bytes(bytes(damaged))
    source = open_source(str(tmp_path))
    assert (len(source), source.names) == (5000, ("prompt",))
    with pytest.raises(ConfigError, match=r"jobs.parquet is not a readable Parquet file"):
        list(source.batches())


def test_the_schema_is_that_of_all_parquet_files(tmp_path: Path) -> None:
    kinds = pa.schema([("a", pa.int32()), ("k", pa.dictionary(pa.int8(), pa.string()))])
    small = pa.table({"a": [1], "k": ["x"]}, schema=kinds.with_metadata({"who": "me"}))
    pq.write_table(small, tmp_path / "a.parquet")
    pq.write_table(pa.table({"b": [0.5], "a": [2**40]}), tmp_path / "b.parquet")
    source = open_source(str(tmp_path))
    rows = source.read()
    assert source.schema is not None
    assert source.schema.names == list(source.names) == ["a", "k", "b"]
    assert source.schema.field("a").type == pa.int64()
    assert source.schema.field("k").type == kinds.field("k").type
    assert source.schema.metadata == {b"who": b"me"}
    assert rows.table is not None
    assert rows.table.schema.equals(source.schema, check_metadata=True)
    assert rows.table.to_pylist() == [
        {"a": 1, "k": "x", "b": None},
        {"a": 2**40, "k": None, "b": 0.5},
    ]
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    assert open_source(str(tmp_path)).schema is None


def test_bad_text_is_named_by_its_row_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"]}), tmp_path / "a.parquet")
    texts = pa.array([b"c", b"d", b"e", b"ok \xff"], pa.binary()).view(pa.string())
    table = pa.table({"prompt": texts})
    pq.write_table(table, tmp_path / "b.parquet", store_schema=False, row_group_size=3)
    for size in (10_000, 2, 1):
        cut_small(monkeypatch, rows=size)
        faults = {
            rows.first + place: why
            for rows in open_source(str(tmp_path)).batches()
            for place, why in rows.faults.items()
        }
        assert faults == {5: "b.parquet row 3: column 'prompt' is not UTF-8 (byte 4)"}


def test_a_file_url_is_the_local_path(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"a": 1}\n{"b": 2}\n')
    for protocol in ("file", "local"):
        source = open_source(f"{protocol}://{path}")
        assert source.files == open_source(str(path)).files
        assert source.read().identity(1) == read_rows(str(path)).identity(1)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s3://bucket/jobs.parquet", r"pip install 'batchpipe\[s3\]'"),
        ("s3a://bucket/jobs.parquet", r"pip install 'batchpipe\[s3\]'"),
        ("abfs://box/jobs.parquet", r"pip install adlfs"),
    ],
)
@pytest.mark.usefixtures("no_storage_packages")
def test_a_missing_storage_package_is_named_with_its_install_line(url: str, line: str) -> None:
    with pytest.raises(ConfigError, match=rf"cannot open {url}: .*{line}"):
        open_source(url)
