"""OUT, here or in a storage, appears whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from row_jobs import (
    answered,
    read_back,
    text_lines,
)

from batchpipe.rows.atomic import written_whole
from batchpipe.rows.source import InputChanged, open_source


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
    with written_whole(tmp_path / "out.jsonl") as stream:
        stream.write(b"new")
    assert (tmp_path / "out.jsonl").is_symlink()
    assert (tmp_path / "there" / "real.jsonl").read_text() == "new"


FILLS_THE_DISK = """
    import errno, os, resource, signal, sys
    sys.path.insert(0, sys.argv[3])
    from batchpipe.rows.results import Result
    from batchpipe.rows.source import open_source
    from row_jobs import write

    source = open_source(sys.argv[1])
    results = [Result(i, output=os.urandom(50).hex()) for i in range(len(source))]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the kernel refuses more bytes
    try:
        write(source, results, sys.argv[2])
    except OSError as error:
        sys.exit(0 if error.errno == errno.EFBIG else 5)
    sys.exit(6)
"""


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_a_write_that_the_disk_refuses_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    text_lines(tmp_path, *(f'{{"a": {i}}}' for i in range(2_000)))
    (tmp_path / name).write_text("old")
    arguments = [str(tmp_path / "jobs.jsonl"), str(tmp_path / name), os.path.dirname(__file__)]
    code = textwrap.dedent(FILLS_THE_DISK)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["jobs.jsonl", name]


def test_a_changed_input_leaves_the_old_file(tmp_path: Path) -> None:
    source = text_lines(tmp_path, '{"a": 1}', '{"a": 2}')
    (tmp_path / "out.jsonl").write_text("old")
    text_lines(tmp_path, '{"a": 1}')
    with pytest.raises(InputChanged, match=r"jobs.jsonl changed .*it has 1 rows and had 2"):
        answered(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["jobs.jsonl", "out.jsonl"]


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_results_go_to_a_url(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    source = text_lines(tmp_path, '{"a": 1}', '{"a": 2}')
    answered(source, tmp_path / name)
    memory = fsspec.filesystem("memory")
    try:
        answered(source, f"memory://new/box/{name}")
        assert memory.cat(f"/new/box/{name}") == (tmp_path / name).read_bytes()
        assert open_source(f"memory://new/box/{name}").read().values("a") == [1, 2]
    finally:
        memory.rm("/new", recursive=True)
    assert os.listdir(tmp_path / "temporary") == []


def test_a_file_url_is_written_as_a_local_file(tmp_path: Path) -> None:
    answered(text_lines(tmp_path, '{"a": 1}'), (tmp_path / "out.jsonl").as_uri())
    assert [line["a"] for line in read_back(tmp_path / "out.jsonl")] == [1]


class FullStorage(MemoryFileSystem):
    """A storage that takes nothing; its client has an error class of its own."""

    protocol = "full"

    def put_file(self, *args: Any, **options: Any) -> None:
        raise RuntimeError("QuotaExceeded:\n no room")


def test_a_storage_that_takes_nothing_is_named(tmp_path: Path) -> None:
    fsspec.register_implementation("full", FullStorage, clobber=True)
    source = text_lines(tmp_path, '{"a": 1}')
    with pytest.raises(OSError, match=r"cannot write full://box/out.jsonl: QuotaExceeded: no room"):
        answered(source, "full://box/out.jsonl")
