"""OUT is checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchpipe.errors import ConfigError
from batchpipe.rows.location import local_path
from batchpipe.rows.output_path import output_exists
from batchpipe.rows.results import check_output


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.PARQUET"])
def test_a_good_name_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    check_output(str(tmp_path / name), overwrite=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.csv", "a", "a.json", "a.jsonl.bz2", "parquet"])
def test_a_foreign_ending_is_named_with_the_allowed_ones(tmp_path: Path, name: str) -> None:
    allowed = r"must end in one of \.parquet, \.jsonl, \.jsonl\.gz, \.jsonl\.zst"
    with pytest.raises(ConfigError, match=rf"{name}: its name {allowed}"):
        check_output(str(tmp_path / name), overwrite=False)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the directory .*/nope does not exist"):
        check_output(str(tmp_path / "nope" / "a.parquet"), overwrite=False)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc on this system")
def test_a_directory_that_takes_no_files_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no file can be made in /proc/"):
        check_output("/proc/self/a.parquet", overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"no file can be made in .*Permission denied"):
        check_output(str(tmp_path / "a.parquet"), overwrite=False)


def test_an_existing_file_needs_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "a.parquet"
    out.write_text("old")
    with pytest.raises(ConfigError, match=r"a.parquet exists: .*--overwrite"):
        check_output(str(out), overwrite=False)
    check_output(str(out), overwrite=True)
    assert out.read_text() == "old"


def test_a_directory_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(ConfigError, match=r"it is a directory"):
        check_output(str(tmp_path / "a.parquet"), overwrite=True)


@pytest.fixture
def memory() -> Iterator[Any]:
    storage = fsspec.filesystem("memory")
    yield storage
    storage.store.clear()
    storage.pseudo_dirs[:] = [""]


def test_a_url_is_checked_like_a_path(memory: Any) -> None:
    check_output("memory://box/a.parquet", overwrite=False)
    assert memory.find("/") == []
    with pytest.raises(ConfigError, match=r"memory://box/a.csv: its name must end in one of"):
        check_output("memory://box/a.csv", overwrite=False)
    memory.pipe("/box/a.parquet", b"old")
    with pytest.raises(ConfigError, match=r"memory://box/a.parquet exists: .*--overwrite"):
        check_output("memory://box/a.parquet", overwrite=False)
    check_output("memory://box/a.parquet", overwrite=True)
    memory.pipe("/box/dir.parquet/x", b"")
    with pytest.raises(ConfigError, match=r"it is a directory"):
        check_output("memory://box/dir.parquet", overwrite=True)


def test_a_url_that_is_the_input_or_beside_it_is_refused(memory: Any) -> None:
    memory.pipe("/box/in.jsonl", b"{}")
    for known in ({"source": "memory://box/in.jsonl"}, {"inputs": ["memory:///box/in.jsonl"]}):
        with pytest.raises(ConfigError, match=r"it is the input"):
            check_output("memory://box/in.jsonl", overwrite=True, **known)
    for source in ("memory://box", "memory://box/*.jsonl"):
        with pytest.raises(ConfigError, match=r"would read it as input"):
            check_output("memory://box/out.jsonl", overwrite=True, source=source)
        check_output("memory://else/out.jsonl", overwrite=True, source=source)
    check_output("memory://box/out.jsonl", overwrite=True, source="memory://box/in.jsonl")


def test_places_on_two_file_systems_are_never_the_same(memory: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("{}")
    memory.pipe(str(path), b"{}")
    check_output(f"memory://{path}", overwrite=True, source=str(path))
    check_output(str(tmp_path / "out.jsonl"), overwrite=True, source=f"memory://{tmp_path}")


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    url = (tmp_path / "a.parquet").as_uri()
    check_output(url, overwrite=False)
    assert os.listdir(tmp_path) == []
    (tmp_path / "a.parquet").write_text("old")
    with pytest.raises(ConfigError, match=r"file://.*a.parquet exists"):
        check_output(url, overwrite=False)
    with pytest.raises(ConfigError, match=r"it is the input"):
        check_output(url, overwrite=True, source=str(tmp_path / "a.parquet"))
    with pytest.raises(ConfigError, match=r"would read it as input"):
        check_output(url, overwrite=True, source=str(tmp_path))


def test_output_exists_as_a_file_alone(memory: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "dir.jsonl").mkdir()
    memory.pipe("/box/a.jsonl", b"")
    there = [str(tmp_path / "a.jsonl"), (tmp_path / "a.jsonl").as_uri(), "memory://box/a.jsonl"]
    assert all(output_exists(out) for out in there)
    missing = [str(tmp_path / "dir.jsonl"), str(tmp_path / "b.jsonl"), "memory://box/b.jsonl"]
    assert not any(output_exists(out) for out in missing)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/x/y", "/x/y"),
        ("x.jsonl", "x.jsonl"),
        ("file:///x/y", "/x/y"),
        ("local:///x/y", "/x/y"),
        ("file://x/y", "x/y"),
        ("memory://x", None),
        ("s3://x/y", None),
        ("zip://a::file:///x", None),
    ],
)
def test_local_path(url: str, path: str | None) -> None:
    assert local_path(url) == path


@pytest.mark.usefixtures("no_storage_packages")
def test_a_storage_that_is_not_installed_is_named_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"s3://box/a.parquet: .*pip install 'batchpipe\[s3\]'"):
        check_output("s3://box/a.parquet", overwrite=False)


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text("{}")
    (tmp_path / "link.jsonl").symlink_to(path)
    for out in (str(path), str(tmp_path / "." / "jobs.jsonl"), str(tmp_path / "link.jsonl")):
        with pytest.raises(ConfigError, match=r"it is the input"):
            check_output(out, overwrite=True, source=str(path))
        with pytest.raises(ConfigError, match=r"it is the input"):
            check_output(out, overwrite=True, inputs=[str(path)])


def test_out_must_not_become_input_of_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for source in (str(tmp_path), str(tmp_path / "*.jsonl")):
        with pytest.raises(ConfigError, match=r"would read it as input"):
            check_output(str(tmp_path / "out.jsonl"), overwrite=False, source=source)
        check_output(str(tmp_path / "sub" / "out.parquet"), overwrite=False, source=source)
    check_output(str(tmp_path / "_out.jsonl"), overwrite=False, source=str(tmp_path))
    check_output(str(tmp_path / "out.parquet"), overwrite=False, source=str(tmp_path / "*.jsonl"))
