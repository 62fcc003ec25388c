"""A row is known again by its file, its place and its content."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchpipe.rows.source import read_rows

LINES = b'{"prompt": "a", "n": 1}\n{"prompt": "b", "tag": [1, "x"]}\n'


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def test_identity_names_file_row_and_content(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LINES + LINES)
    write(tmp_path / "b.jsonl", LINES)
    rows = read_rows(str(tmp_path))
    identities = [rows.identity(ordinal) for ordinal in range(len(rows))]
    assert [identity[:2] for identity in identities] == [
        ("a.jsonl", 0),
        ("a.jsonl", 1),
        ("a.jsonl", 2),
        ("a.jsonl", 3),
        ("b.jsonl", 0),
        ("b.jsonl", 1),
    ]
    hashes = [identity[2] for identity in identities]
    assert hashes[0] == hashes[2] == hashes[4]
    assert hashes[0] != hashes[1]
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in hashes)


def test_identity_of_parquet_depends_on_content_alone(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["a", "b", "a", "a", None],
            "ids": pa.array([[1, 2], [3], [1, 2], [1, 3], None], pa.list_(pa.int32())),
            "extra": [{"x": 1.5}, None, {"x": 1.5}, {"x": 1.5}, None],
            "when": pa.array([1, 2, 1, 1, 1], pa.timestamp("ns")),
        }
    )
    for groups in (1, 2, 100):
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=groups)
        rows = read_rows(str(tmp_path / "a.parquet"))
        hashes = [rows.identity(ordinal)[2] for ordinal in range(5)]
        assert hashes[0] == hashes[2]
        assert len(set(hashes)) == 4
        if groups == 1:
            expected = hashes
        assert hashes == expected
        limited = read_rows(str(tmp_path / "a.parquet"), limit=2)
        assert limited.identity(1) == ("a.parquet", 1, expected[1])


def test_identity_ignores_where_the_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "jobs.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    assert read_rows(path).identity(1) == read_rows("./jobs.jsonl").identity(1)


def test_mixed_directory_has_one_identity_a_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["p"]}), tmp_path / "a.parquet")
    alone = read_rows(str(tmp_path / "a.parquet")).identity(0)
    write(tmp_path / "b.jsonl", LINES)
    mixed = read_rows(str(tmp_path))
    assert mixed.identity(0) == alone
    assert mixed.identity(2)[:2] == ("b.jsonl", 1)
