"""Reading job files: every row in its place, every bad file named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchpipe.errors import ConfigError
from batchpipe.rows.source import read_rows

LINES = b'{"prompt": "a", "n": 1}\n{"prompt": "b", "tag": [1, "x"]}\n'


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def test_json_lines_keep_values_and_column_order(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "jobs.jsonl", LINES))
    assert len(rows) == 2
    assert rows.names == ("prompt", "n", "tag")
    assert rows.values("prompt") == ["a", "b"]
    assert rows.values("n") == [1, None]
    assert rows.values("tag") == [None, [1, "x"]]
    assert dict(rows.faults) == {}


def test_a_column_that_is_not_there_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        read_rows(write(tmp_path / "jobs.jsonl", LINES)).values("nope")


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.ndjson", "a.json", "a.JSONL", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson.gz"],
)
def test_every_ending_is_read(tmp_path: Path, name: str) -> None:
    pack = {"gz": gzip.compress, "st": zstd}.get(name[-2:], bytes)
    rows = read_rows(write(tmp_path / name, pack(LINES)))
    assert rows.values("prompt") == ["a", "b"]


def test_packed_files_of_several_members_are_read_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", gzip.compress(LINES) + gzip.compress(LINES))
    write(tmp_path / "b.jsonl.zst", zstd(LINES) + zstd(LINES))
    assert read_rows(str(tmp_path)).values("prompt") == ["a", "b"] * 4


def test_parquet_keeps_its_exact_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", "b"]),
            "small": pa.array([1, None], pa.int8()),
            "when": pa.array([1, 2], pa.timestamp("ms", "UTC")),
            "kind": pa.array(["x", "x"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "jobs.parquet")
    rows = read_rows(str(tmp_path / "jobs.parquet"))
    assert rows.table is not None
    assert rows.table.schema.equals(table.schema)
    assert rows.table.equals(table)
    assert rows.values("small") == [1, None]


def test_nanoseconds_and_far_years_are_readable(tmp_path: Path) -> None:
    table = pa.table(
        {
            "exact": pa.array([1], pa.timestamp("ns")),
            "round": pa.array([1_000_000], pa.timestamp("ns")),
            "span": pa.array([[{"a": 5}]], pa.list_(pa.struct({"a": pa.duration("ns")}))),
            "far": pa.array([2**40], pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "jobs.parquet")
    rows = read_rows(str(tmp_path / "jobs.parquet"))
    assert rows.values("exact") == ["1970-01-01 00:00:00.000000001"]
    assert str(rows.values("round")[0]) == "1970-01-01 00:00:00.001000"
    assert rows.values("span") == [[{"a": "5"}]]
    assert "out of range" in str(rows.values("far")[0])


def test_directory_is_read_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.parquet", ".c.jsonl", "_d.jsonl", "notes.txt"):
        if name.endswith(".parquet"):
            pq.write_table(pa.table({"prompt": ["p"]}), tmp_path / name)
        else:
            write(tmp_path / name, LINES)
    (tmp_path / "z.jsonl").mkdir()
    rows = read_rows(str(tmp_path))
    assert [(file.name, file.rows, file.first) for file in rows.files] == [
        ("a.parquet", 1, 0),
        ("b.jsonl", 2, 1),
    ]
    assert rows.values("prompt") == ["p", "a", "b"]


def test_glob_reads_what_it_matches(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "part.jsonl", LINES)
        write(tmp_path / folder / "part.txt", LINES)
    rows = read_rows(str(tmp_path / "*" / "part.*"))
    assert [file.name for file in rows.files] == ["x/part.jsonl", "y/part.jsonl"]
    assert len(rows) == 4


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    assert len(read_rows(write(tmp_path / "jobs[1].jsonl", LINES))) == 2


def test_relative_paths_are_shown_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "jobs.jsonl", LINES)
    monkeypatch.chdir(tmp_path)
    assert read_rows("jobs.jsonl").files[0].path == "jobs.jsonl"
    assert read_rows("*.jsonl").files[0].path == "jobs.jsonl"
    assert read_rows(".").files[0].path == "jobs.jsonl"


def test_urls_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/job/a.jsonl", LINES)
    memory.pipe("/job/b.jsonl.gz", gzip.compress(LINES))
    try:
        rows = read_rows("memory://job")
        assert rows.values("prompt") == ["a", "b", "a", "b"]
        assert rows.files[0].path == "memory:///job/a.jsonl"
        assert len(read_rows("memory://job/a.jsonl")) == 2
        assert len(read_rows("memory://job/*.gz")) == 2
    finally:
        memory.rm("/job", recursive=True)
    assert len(read_rows(f"file://{write(tmp_path / 'a.jsonl', LINES)}")) == 2


def test_limit_counts_over_all_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": list("abcde")}), tmp_path / "a.parquet", row_group_size=2)
    pq.write_table(pa.table({"prompt": list("fgh")}), tmp_path / "b.parquet")
    write(tmp_path / "c.jsonl", LINES)
    expected = list("abcdefghab")
    for limit in range(len(expected) + 2):
        rows = read_rows(str(tmp_path), limit=limit)
        assert len(rows) == min(limit, len(expected))
        assert (rows.values("prompt") if len(rows) else []) == expected[:limit]
    with pytest.raises(ConfigError, match=r"limit is -1"):
        read_rows(str(tmp_path), limit=-1)


def test_parquet_files_with_other_columns_are_joined(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"prompt": ["a"], "x": pa.array([1], pa.int32())}), tmp_path / "a.parquet"
    )
    pq.write_table(pa.table({"y": ["q"], "prompt": ["b"]}), tmp_path / "b.parquet")
    rows = read_rows(str(tmp_path))
    assert rows.names == ("prompt", "x", "y")
    assert rows.values("x") == [1, None]
    assert rows.values("y") == [None, "q"]


def test_parquet_files_that_disagree_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"prompt": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"disagree on a column's type.*prompt"):
        read_rows(str(tmp_path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_file_of_no_bytes_has_no_rows(tmp_path: Path, name: str) -> None:
    rows = read_rows(write(tmp_path / name, b""))
    assert len(rows) == 0
    assert rows.names == ()


def test_file_without_rows_has_no_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert len(read_rows(str(tmp_path / "a.parquet"))) == 0
    assert len(read_rows(write(tmp_path / "b.jsonl", b"\n\n"))) == 0
    assert len(read_rows(write(tmp_path / "c.jsonl.gz", gzip.compress(b"")))) == 0


def test_an_empty_file_beside_a_full_one_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", b"")
    pq.write_table(pa.table({"prompt": ["p"]}), tmp_path / "b.parquet")
    assert read_rows(str(tmp_path)).values("prompt") == ["p"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.parquet does not exist"):
        read_rows(str(tmp_path / "nope.parquet"))
    with pytest.raises(ConfigError, match=r"\*.jsonl matches no file"):
        read_rows(str(tmp_path / "*.jsonl"))
    with pytest.raises(ConfigError, match=r"the input has no name"):
        read_rows("")
    with pytest.raises(ConfigError, match=r"holds no job files"):
        read_rows(str(tmp_path))
    write(tmp_path / "a.csv", b"x")
    with pytest.raises(ConfigError, match=r"a.csv is no job file.*\.parquet, \.jsonl"):
        read_rows(str(tmp_path / "a.csv"))
    with pytest.raises(ConfigError, match=r"matches no job files"):
        read_rows(str(tmp_path / "*.csv"))
    with pytest.raises(ConfigError, match=r"cannot open nosuch://a.jsonl"):
        read_rows("nosuch://a.jsonl")


def test_not_parquet_despite_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"jobs.parquet is not a readable Parquet file"):
        read_rows(write(tmp_path / "jobs.parquet", LINES))


def test_parquet_cut_short_or_damaged_is_named(tmp_path: Path) -> None:
    table = pa.table({"prompt": [f"text {i * i}" for i in range(5000)]})
    pq.write_table(table, tmp_path / "whole.parquet")
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    with pytest.raises(ConfigError, match=r"cut.parquet"):
        read_rows(write(tmp_path / "cut.parquet", bytes(content[:-100])))
    content[4:400] = bytes(396)
    with pytest.raises(ConfigError, match=r"bad.parquet"):
        read_rows(write(tmp_path / "bad.parquet", bytes(content)))


def test_parquet_with_twin_columns_is_named(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a.parquet has two columns named 'prompt'"):
        read_rows(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zstd)])
def test_packed_file_cut_short_is_named(tmp_path: Path, ending: str, pack) -> None:  # type: ignore[no-untyped-def]
    lines = b"".join(b'{"prompt": "%d"}\n' % (i * i) for i in range(20_000))
    path = write(tmp_path / f"jobs.jsonl.{ending}", pack(lines)[:-20])
    with pytest.raises(ConfigError, match=rf"jobs.jsonl.{ending} is truncated or damaged"):
        read_rows(path)
    path = write(tmp_path / f"text.jsonl.{ending}", lines[:100])
    with pytest.raises(ConfigError, match=rf"text.jsonl.{ending} is truncated or damaged"):
        read_rows(path)


def test_bad_text_in_parquet_is_a_fault_of_its_row(tmp_path: Path) -> None:
    plain = pa.array([b"fine", b"ok \xff no", None, b"\xc3\xa9"], pa.binary()).view(pa.string())
    offsets = pa.array([0, 1, 2, 3, 4], pa.int32())
    table = pa.table(
        {
            "number": [1, 2, 3, 4],
            "prompt": plain,
            "nested": pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays([plain], ["x"])),
        }
    )
    pq.write_table(table, tmp_path / "jobs.parquet", store_schema=False)
    rows = read_rows(str(tmp_path / "jobs.parquet"))
    assert dict(rows.faults) == {
        1: "jobs.parquet row 1: column 'prompt' is not UTF-8 (byte 4)",
    }
    assert rows.values("prompt") == ["fine", None, None, "é"]
    assert rows.values("nested") == [[{"x": "fine"}], None, [{"x": None}], [{"x": "é"}]]
    assert rows.values("number") == [1, 2, 3, 4]
    assert rows.table is not None
    rows.table.validate(full=True)
