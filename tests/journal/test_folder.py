"""One meaning of a folder, whatever keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from batchpipe.errors import ConfigError
from batchpipe.journal.folder import Folder, LocalFolder, open_folder
from batchpipe.journal.remote_folder import RemoteFolder


def test_files_are_put_listed_and_removed(any_folder: Folder) -> None:
    assert any_folder.names() == any_folder.names("parts") == []
    any_folder.put("manifest.json", b"one")
    any_folder.put("parts/b", b"two")
    any_folder.put("parts/a", b"")
    any_folder.put(".hidden", b"three")
    assert any_folder.names() == [".hidden", "manifest.json", "parts/"]
    assert any_folder.names("parts") == any_folder.names("parts/") == ["a", "b"]
    any_folder.put("manifest.json", b"other")
    assert any_folder.get("manifest.json") == b"other"
    assert any_folder.get("parts/a") == b""
    any_folder.remove("parts/a")
    any_folder.remove("parts/a")
    any_folder.remove("never/there")
    assert any_folder.names("parts") == ["b"]


def test_what_others_write_is_seen_at_once(any_folder: Folder) -> None:
    other = open_folder(any_folder.name)
    any_folder.put("parts/a", b"1")
    assert any_folder.names("parts") == ["a"]
    other.put("parts/b", b"2")
    other.remove("parts/a")
    assert any_folder.names("parts") == ["b"]
    other.put("parts/b", b"3")
    assert any_folder.get("parts/b") == b"3"


def test_a_file_is_created_once(any_folder: Folder) -> None:
    any_folder.create("lock", b"mine")
    with pytest.raises(FileExistsError) as told:
        any_folder.create("lock", b"yours")
    assert "lock" in str(told.value)
    assert any_folder.get("lock") == b"mine"


def test_what_is_missing_is_named(any_folder: Folder) -> None:
    with pytest.raises(FileNotFoundError) as told:
        any_folder.get("parts/none")
    assert str(told.value.filename).endswith("run/parts/none")


def test_a_file_lists_as_no_folder(any_folder: Folder) -> None:
    any_folder.put("file", b"")
    with pytest.raises(NotADirectoryError):
        any_folder.names("file")


def test_nothing_is_made_before_the_first_file(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "run"))
    folder.names()
    folder.remove("x")
    assert not list(tmp_path.iterdir())


def test_a_name_means_the_same_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = open_folder("run")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    folder.put("x", b"")
    assert folder.name == "run"
    assert (tmp_path / "run" / "x").is_file()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nope://x/y", "cannot open nope://x/y"),
        ("gs://bucket/run", "gs://bucket/run.*pip install gcsfs"),
    ],
)
def test_what_cannot_be_opened_says_what_would_help(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_folder(url)


def test_whatever_a_driver_raises_is_an_os_error_with_the_name() -> None:
    class Odd(MemoryFileSystem):  # type: ignore[misc]
        def cat_file(self, path: str, **options: object) -> bytes:
            raise RuntimeError("the token\nexpired")

        def rm_file(self, path: str) -> None:
            raise PermissionError("not yours")

    folder = RemoteFolder("odd://here", Odd(skip_instance_cache=True), "/here")
    with pytest.raises(OSError, match=r"the token expired: 'odd://here/parts/x'"):
        folder.get("parts/x")
    with pytest.raises(PermissionError, match=r"not yours: 'odd://here/x'"):
        folder.remove("x")


def test_a_store_without_conditional_writes_is_asked_first(tmp_path: Path) -> None:
    class Plain(MemoryFileSystem):  # type: ignore[misc]
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
            if mode == "create":
                raise NotImplementedError("no If-None-Match here")
            super().pipe_file(path, value)

    folder = RemoteFolder("plain://x", Plain(skip_instance_cache=True), f"/{tmp_path.name}")
    folder.create("lock", b"1")
    with pytest.raises(FileExistsError):
        folder.create("lock", b"2")
    assert folder.get("lock") == b"1"


def test_urls_of_this_machine_are_local(tmp_path: Path) -> None:
    assert isinstance(open_folder(f"file://{tmp_path}"), LocalFolder)
    assert isinstance(open_folder("memory://x"), RemoteFolder)
    assert fsspec.__version__
