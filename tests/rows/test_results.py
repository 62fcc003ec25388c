"""Results: every input row once, in order, with all of its columns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_jobs import (
    answer_tables,
    answered,
    cut_small,
    good_answers,
    read_back,
    text_lines,
    write,
)

from batchpipe.rows.results import Result, write_results
from batchpipe.rows.source import open_source

NAMES = [
    "output",
    "status",
    "finish_reason",
    "error",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines_keep_keys_types_and_order(tmp_path: Path, ending: str) -> None:
    source = text_lines(tmp_path, '{"b": 1, "a": "é"}', '{"a": [1, {"x": null}], "c": 1.0}')
    out = tmp_path / f"out{ending}"
    write(source, [good_answers(1)[0], Result.failed(1, "no")], out)
    first, second = read_back(out)
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
    source = open_source(str(tmp_path / "jobs.parquet"))
    out = tmp_path / "out.parquet"
    write(source, good_answers(3), out, with_token_ids=True)
    written = pq.read_table(out)
    assert written.select(table.column_names).equals(table)
    assert written.column_names == [*table.column_names, *NAMES, "output_token_ids"]
    assert written["output"].to_pylist() == ["answer 0", "answer 1", "answer 2"]
    assert written["output_token_ids"].to_pylist() == [[0, 7], [1, 7], [2, 7]]
    assert written.schema.field("prompt_tokens").type == pa.int64()
    assert pq.ParquetFile(out).metadata.row_group(0).column(0).compression == "ZSTD"


def test_failed_row_keeps_its_place(tmp_path: Path) -> None:
    source = text_lines(tmp_path, '{"a": 1}', "nope", '{"a": 3}')
    results = good_answers(3)
    results[1] = Result.failed(1, source.read().faults[1])
    write(source, results, tmp_path / "out.jsonl")
    write(source, results, tmp_path / "out.parquet")
    for written in (
        read_back(tmp_path / "out.jsonl"),
        pq.read_table(tmp_path / "out.parquet").to_pylist(),
    ):
        assert [row["a"] for row in written] == [1, None, 3]
        assert [row["status"] for row in written] == ["success", "error", "success"]
        assert written[1]["error"] == "jobs.jsonl line 2 column 1: not JSON (Expecting value)"
        assert written[1]["prompt_tokens"] == 0


def test_several_samples_add_one_column(tmp_path: Path) -> None:
    source = text_lines(tmp_path, '{"a": 1}', '{"a": 2}')
    results = [Result(0, output="x", outputs=("x", "y")), Result(1, output="z")]
    write(source, results, tmp_path / "out.parquet")
    write(source, results, tmp_path / "out.jsonl")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column_names[:3] == ["a", "output", "outputs"]
    assert written["outputs"].to_pylist() == [["x", "y"], None]
    assert [row["outputs"] for row in read_back(tmp_path / "out.jsonl")] == [["x", "y"], None]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_input_columns_with_result_names_are_kept(tmp_path: Path, ending: str) -> None:
    row = {"output": "old", "input_output": "older", "status": 5, "output_token_ids": [1]}
    source = text_lines(tmp_path, json.dumps(row))
    out = tmp_path / f"out.{ending}"
    write(source, good_answers(1), out)
    (written,) = read_back(out) if ending == "jsonl" else pq.read_table(out).to_pylist()
    assert written["input_input_output"] == "old"
    assert written["input_output"] == "older"
    assert written["input_status"] == 5
    assert written["output_token_ids"] == [1]
    assert written["output"] == "answer 0"


def test_results_of_results_lose_nothing(tmp_path: Path) -> None:
    source = text_lines(tmp_path, '{"prompt": "a"}')
    write(source, good_answers(1), tmp_path / "1.parquet")
    again = open_source(str(tmp_path / "1.parquet"))
    write(again, good_answers(1), tmp_path / "2.parquet")
    written = pq.read_table(tmp_path / "2.parquet").column_names
    assert written == ["prompt", *(f"input_{name}" for name in NAMES), *NAMES]


def test_input_without_rows_gives_a_file_without_rows(tmp_path: Path) -> None:
    source = text_lines(tmp_path)
    write(source, [], tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column_names == NAMES
    write(source, [], tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_large_outputs_are_written_in_small_row_groups(tmp_path: Path) -> None:
    source = text_lines(tmp_path, *(f'{{"a": {i}}}' for i in range(25_000)))
    write(source, good_answers(25_000), tmp_path / "out.parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [10_000, 10_000, 5_000]
    written = file.read()
    assert written["a"].to_pylist() == list(range(25_000))
    assert written["output"].to_pylist() == [f"answer {i}" for i in range(25_000)]


def test_a_wrong_number_of_results_is_a_broken_invariant(tmp_path: Path) -> None:
    source = text_lines(tmp_path, '{"a": 1}', '{"a": 2}')
    with pytest.raises(AssertionError, match=r"1 results for 2 rows"):
        write(source, good_answers(1), tmp_path / "out.jsonl")
    with pytest.raises(AssertionError, match=r"3 results for 2 rows"):
        write(source, good_answers(3), tmp_path / "out.jsonl")
    assert os.listdir(tmp_path) == ["jobs.jsonl"]


def test_reading_and_writing_rows_load_no_model_library() -> None:
    code = """
        import sys
        from batchpipe.rows import parameters, prompts, results, source
        sys.exit(bool({"torch", "transformers"} & set(sys.modules)))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_the_streaming_writer_writes_what_one_batch_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"a": n, "b": None if n < 4 else 0.5, "c": [n] if n % 2 else "x"} for n in range(9)]
    source = text_lines(tmp_path, *(json.dumps(row) for row in rows))
    for name in ("one.parquet", "one.jsonl"):
        answered(source, tmp_path / name)
    for batch_rows, answer_rows in ((1, 9), (2, 5), (4, 3), (9, 1)):
        cut_small(monkeypatch, rows=batch_rows)
        for name in ("many.parquet", "many.jsonl"):
            answered(source, tmp_path / name, at_once=answer_rows)
        one, many = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "many"))
        assert many.equals(one)
        assert many.schema.equals(one.schema, check_metadata=True)
        assert (tmp_path / "many.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_no_more_answers_are_taken_than_a_batch_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch, rows=2)
    source = text_lines(tmp_path, *(f'{{"a": {n}}}' for n in range(6)))
    held: list[weakref.ref[pa.Table]] = []
    most = 0

    def coming() -> Iterator[pa.Table]:
        nonlocal most
        for table in answer_tables(good_answers(6), at_once=1):
            held.append(weakref.ref(table))
            most = max(most, sum(each() is not None for each in held))
            yield table

    out = str(tmp_path / "out.parquet")
    write_results(source, coming(), out, with_token_ids=False, several=False)
    assert len(held) == 6
    assert most <= 3
