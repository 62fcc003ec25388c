"""OUT is checked before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchpipe.errors import ConfigError
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


def test_a_directory_or_url_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(ConfigError, match=r"it is a directory"):
        check_output(str(tmp_path / "a.parquet"), overwrite=True)
    with pytest.raises(ConfigError, match=r"results go to a local file"):
        check_output("s3://bucket/a.parquet", overwrite=True)


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
