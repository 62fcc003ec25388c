"""Folders of every kind, and small constants, so that little work meets every branch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import BUCKET, s3_server

from batchpipe.journal import compaction, journal, lease, moments
from batchpipe.journal.folder import Folder, open_folder

numbers = itertools.count()


@pytest.fixture(autouse=True)
def nobody_is_killed() -> Iterator[None]:
    yield
    moments.hook = None


@pytest.fixture(autouse=True)
def small_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FLUSH_ROWS", 4)
    monkeypatch.setattr(compaction, "MERGED_PARTS", 3)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.02)


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A folder that is not there yet."""
    if request.param == "local":
        return open_folder(str(tmp_path / "run"))
    return open_folder(f"memory://{tmp_path.name}-{next(numbers)}/run")


@pytest.fixture(params=["local", "file", "memory", "s3"])
def any_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Folder:
    """The same, of every kind."""
    if request.param == "local":
        return open_folder(str(tmp_path / "some" / "run"))
    if request.param == "file":
        return open_folder(f"file://{tmp_path}/some/run")
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3_environment").items():
            monkeypatch.setenv(name, value)
    root = BUCKET if request.param == "s3" else "somewhere"
    return open_folder(f"{request.param}://{root}/{tmp_path.name}-{next(numbers)}/run")
