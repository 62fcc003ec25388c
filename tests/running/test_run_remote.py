"""Input, OUT and the run directory on other file systems than the local one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from harness import Row, call, write_parquet
from s3_server import BUCKET, s3_server

numbers = itertools.count()
ROWS: list[Row] = [{"prompt": f"Please tell them, {row % 7}", "n_th": row} for row in range(20)]


@pytest.fixture(scope="module")
def s3_environment() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["memory", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder's URL on each kind of file system."""
    if request.param == "file":
        return f"file://{tmp_path}"
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3_environment").items():
            monkeypatch.setenv(name, value)
    root = BUCKET if request.param == "s3" else ""
    return f"{request.param}://{root}/{tmp_path.name}-{next(numbers)}"


def rows_of(url: str) -> list[Row]:
    with fsspec.open(url, "rb") as stream:
        if url.endswith(".parquet"):
            return list(pq.read_table(stream).to_pylist())
        return [json.loads(line) for line in stream]


def put(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as stream:
        stream.write(content)


@pytest.fixture
def job(folder: str, tmp_path: Path) -> str:
    put(f"{folder}/job.parquet", write_parquet(tmp_path / "local.parquet", ROWS).read_bytes())
    return f"{folder}/job.parquet"


def command(job: str, model: Path, out: str) -> list[Any]:
    return ["run", job, "-m", model, "-o", out, "--max-tokens", 3, "--json"]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.zst"])
def test_everything_may_lie_elsewhere(folder: str, job: str, model: Path, ending: str) -> None:
    out = f"{folder}/answers.{ending}"
    ran = call(*command(job, model, out))
    assert ran.code == 0, ran.err
    assert ran.summary["run_dir"] == f"{out}.run"
    if ending != "jsonl.zst":
        assert [row["n_th"] for row in rows_of(out)] == list(range(20))
    again = call(*command(job, model, out))
    assert "nothing to do" in again.err
    assert again.summary == ran.summary


def test_it_is_told_retried_and_refused_as_a_local_one(folder: str, job: str, model: Path) -> None:
    out = f"{folder}/answers.jsonl"
    assert call(*command(job, model, out)).code == 0
    told = call("status", f"{out}.run", "--json")
    assert (told.code, told.summary["finished"]) == (0, 20), told.err
    before = rows_of(out)
    retried = call(
        "retry", f"{out}.run", "--finish-reason", "length", "--set", "max_tokens=6", "--json"
    )
    assert retried.code == 0, retried.err
    assert sum(row["completion_tokens"] for row in rows_of(out)) > sum(
        row["completion_tokens"] for row in before
    )
    refused = call(*command(job, model, out), "--seed", 5)
    assert refused.code == 2
    assert "seed was 0 and is 5" in refused.sentence
    assert call(*command(job, model, out), "--seed", 5, "--overwrite").code == 0


def test_a_damaged_part_is_computed_again(folder: str, job: str, model: Path) -> None:
    out = f"{folder}/answers.jsonl"
    call(*command(job, model, out))
    before = rows_of(out)
    filesystem, root = fsspec.core.url_to_fs(f"{out}.run")
    filesystem.invalidate_cache()
    [part] = filesystem.ls(f"{root}/parts", detail=False)
    content = filesystem.cat_file(part)
    filesystem.pipe_file(part, content[: len(content) // 2])
    filesystem.rm(f"{root}/summary.json")
    ran = call(*command(job, model, out))
    assert ran.code == 0, ran.err
    assert "parts/" in ran.err
    assert "20 rows" in ran.err
    assert rows_of(out) == before


def test_out_that_exists_is_not_overwritten(folder: str, job: str, model: Path) -> None:
    out = f"{folder}/precious.jsonl"
    put(out, b"precious\n")
    ran = call(*command(job, model, out))
    assert ran.code == 2
    assert "precious.jsonl exists" in ran.sentence
