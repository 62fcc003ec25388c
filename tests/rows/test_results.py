"""Results: every input row once, in order, with all of its columns; OUT whole or not at all."""

from __future__ import annotations

import base64
import datetime
import decimal
import gzip
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchpipe.rows.atomic import written_whole
from batchpipe.rows.results import Result, write_lines, write_parquet, write_results
from batchpipe.rows.source import Rows, read_rows

NAMES = [
    "output",
    "status",
    "finish_reason",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
]


def lines_of(folder: Path, *lines: str) -> Rows:
    (folder / "jobs.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return read_rows(str(folder / "jobs.jsonl"))


def answers(count: int) -> list[Result]:
    return [
        Result(
            ordinal,
            output=f"answer {ordinal}",
            finish_reason="stop",
            prompt_tokens=5,
            cached_tokens=4,
            completion_tokens=2,
            output_token_ids=(ordinal, 7),
        )
        for ordinal in range(count)
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    if path.suffix == ".zst":
        raw = pa.CompressedInputStream(pa.BufferReader(raw), "zstd").read()
    return [json.loads(line) for line in raw.decode().split("\n")[:-1]]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_keep_keys_types_and_order(tmp_path: Path, ending: str) -> None:
    rows = lines_of(tmp_path, '{"b": 1, "a": "é"}', '{"a": [1, {"x": null}], "c": 1.0}')
    out = tmp_path / f"out{ending}"
    write_results(rows, [answers(1)[0], Result.failed(1, "no")], str(out), with_token_ids=False)
    first, second = read_lines(out)
    assert list(first) == ["b", "a", *NAMES]
    assert first | {} == {
        "b": 1,
        "a": "é",
        "output": "answer 0",
        "status": "success",
        "finish_reason": "stop",
        "error": None,
        "prompt_tokens": 5,
        "cached_tokens": 4,
        "completion_tokens": 2,
    }
    assert list(second) == ["a", "c", *NAMES]
    assert second["a"] == [1, {"x": None}]
    assert isinstance(second["c"], float)
    assert (second["status"], second["error"], second["output"]) == ("error", "no", None)
    assert sorted(os.listdir(tmp_path)) == sorted(["jobs.jsonl", out.name])


def test_parquet_keeps_the_table_and_adds_the_result(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", None, "c"]),
            "small": pa.array([1, None, 3], pa.int8()),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "nested": pa.array([[{"x": 1}], [], None]),
        }
    )
    pq.write_table(table, tmp_path / "jobs.parquet")
    rows = read_rows(str(tmp_path / "jobs.parquet"))
    out = tmp_path / "out.parquet"
    write_results(rows, answers(3), str(out), with_token_ids=True)
    written = pq.read_table(out)
    assert written.select(table.column_names).equals(table)
    assert written.column_names == [*table.column_names, *NAMES, "output_token_ids"]
    assert written["output"].to_pylist() == ["answer 0", "answer 1", "answer 2"]
    assert written["output_token_ids"].to_pylist() == [[0, 7], [1, 7], [2, 7]]
    assert written.schema.field("prompt_tokens").type == pa.int64()
    assert pq.ParquetFile(out).metadata.row_group(0).column(0).compression == "ZSTD"


def test_failed_row_keeps_its_place(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, '{"a": 1}', "nope", '{"a": 3}')
    results = answers(3)
    results[1] = Result.failed(1, rows.faults[1])
    write_results(rows, results, str(tmp_path / "out.jsonl"), with_token_ids=False)
    write_results(rows, results, str(tmp_path / "out.parquet"), with_token_ids=False)
    for written in (
        read_lines(tmp_path / "out.jsonl"),
        pq.read_table(tmp_path / "out.parquet").to_pylist(),
    ):
        assert [row["a"] for row in written] == [1, None, 3]
        assert [row["status"] for row in written] == ["success", "error", "success"]
        assert written[1]["error"] == "jobs.jsonl line 2 column 1: not JSON (Expecting value)"
        assert written[1]["prompt_tokens"] == 0


def test_several_samples_add_one_column(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, '{"a": 1}', '{"a": 2}')
    results = [Result(0, output="x", outputs=("x", "y")), Result(1, output="z")]
    write_results(rows, results, str(tmp_path / "out.parquet"), with_token_ids=False)
    write_results(rows, results, str(tmp_path / "out.jsonl"), with_token_ids=False)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column_names[:3] == ["a", "output", "outputs"]
    assert written["outputs"].to_pylist() == [["x", "y"], None]
    assert [row["outputs"] for row in read_lines(tmp_path / "out.jsonl")] == [["x", "y"], None]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_input_columns_with_result_names_are_kept(tmp_path: Path, ending: str) -> None:
    row = {"output": "old", "input_output": "older", "status": 5, "output_token_ids": [1]}
    rows = lines_of(tmp_path, json.dumps(row))
    out = tmp_path / f"out.{ending}"
    write_results(rows, answers(1), str(out), with_token_ids=False)
    (written,) = read_lines(out) if ending == "jsonl" else pq.read_table(out).to_pylist()
    assert written["input_input_output"] == "old"
    assert written["input_output"] == "older"
    assert written["input_status"] == 5
    assert written["output_token_ids"] == [1]
    assert written["output"] == "answer 0"


def test_results_of_results_lose_nothing(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, '{"prompt": "a"}')
    write_results(rows, answers(1), str(tmp_path / "1.parquet"), with_token_ids=False)
    again = read_rows(str(tmp_path / "1.parquet"))
    write_results(again, answers(1), str(tmp_path / "2.parquet"), with_token_ids=False)
    written = pq.read_table(tmp_path / "2.parquet").column_names
    assert written == ["prompt", *(f"input_{name}" for name in NAMES), *NAMES]


def test_input_without_rows_gives_a_file_without_rows(tmp_path: Path) -> None:
    rows = lines_of(tmp_path)
    write_results(rows, [], str(tmp_path / "out.parquet"), with_token_ids=False)
    assert pq.read_table(tmp_path / "out.parquet").column_names == NAMES
    write_results(rows, [], str(tmp_path / "out.jsonl"), with_token_ids=False)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


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
    write_results(lines_of(tmp_path, *lines), answers(3), str(out), with_token_ids=False)
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
    rows = read_rows(str(tmp_path / "jobs.parquet"))
    write_results(rows, answers(1), str(tmp_path / "out.jsonl"), with_token_ids=True)
    (written,) = read_lines(tmp_path / "out.jsonl")
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


def test_large_outputs_are_written_in_small_row_groups(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, *(f'{{"a": {i}}}' for i in range(25_000)))
    write_results(rows, answers(25_000), str(tmp_path / "out.parquet"), with_token_ids=False)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [10_000, 10_000, 5_000]
    written = file.read()
    assert written["a"].to_pylist() == list(range(25_000))
    assert written["output"].to_pylist() == [f"answer {i}" for i in range(25_000)]


def test_an_older_file_is_replaced_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")

    def interrupted() -> None:
        with written_whole(str(out)) as stream:
            stream.write(b"half")
            assert out.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.jsonl"]
    with written_whole(str(out)) as stream:
        stream.write(b"new")
    assert out.read_text() == "new"
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "there" / "real.jsonl")
    with written_whole(str(tmp_path / "out.jsonl")) as stream:
        stream.write(b"new")
    assert (tmp_path / "out.jsonl").is_symlink()
    assert (tmp_path / "there" / "real.jsonl").read_text() == "new"


def test_a_wrong_number_of_results_is_a_broken_invariant(tmp_path: Path) -> None:
    rows = lines_of(tmp_path, '{"a": 1}', '{"a": 2}')
    with pytest.raises(AssertionError, match=r"1 results for 2 rows"):
        write_results(rows, answers(1), str(tmp_path / "out.jsonl"), with_token_ids=False)
    with pytest.raises(AssertionError, match=r"result 1 in the place of 0"):
        write_results(rows, answers(2)[::-1], str(tmp_path / "out.jsonl"), with_token_ids=False)
    assert os.listdir(tmp_path) == ["jobs.jsonl"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("write", [write_lines, write_parquet])
def test_disk_full_is_the_oserror_that_it_is(tmp_path: Path, write: Any) -> None:
    rows = lines_of(tmp_path, '{"a": 1}')
    stream = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with stream, pytest.raises(OSError, match=r"No space left on device"):
        write(stream, rows, answers(1), ["output"])


FILLS_THE_DISK = """
    import errno, os, resource, signal, sys
    from batchpipe.rows.results import Result, write_results
    from batchpipe.rows.source import read_rows

    rows = read_rows(sys.argv[1])
    results = [Result(i, output=os.urandom(50).hex()) for i in range(len(rows))]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the kernel refuses more bytes
    try:
        write_results(rows, results, sys.argv[2], with_token_ids=False)
    except OSError as error:
        sys.exit(0 if error.errno == errno.EFBIG else 5)
    sys.exit(6)
"""


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_a_write_that_the_disk_refuses_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    lines_of(tmp_path, *(f'{{"a": {i}}}' for i in range(2_000)))
    (tmp_path / name).write_text("old")
    arguments = [str(tmp_path / "jobs.jsonl"), str(tmp_path / name)]
    code = textwrap.dedent(FILLS_THE_DISK)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["jobs.jsonl", name]


def test_reading_and_writing_rows_load_no_model_library() -> None:
    code = """
        import sys
        from batchpipe.rows import parameters, prompts, results, source
        sys.exit(bool({"torch", "transformers"} & set(sys.modules)))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
