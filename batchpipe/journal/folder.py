"""Where a run is kept: a local directory or a folder of any file system of fsspec's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from batchpipe.journal.remote_folder import open_remote
from batchpipe.rows.atomic import written_whole
from batchpipe.rows.location import local_path


class Folder(Protocol):
    """Files under names; a name has slashes where the file lies deeper.

    Every failure is an ``OSError`` with the file's name in it.
    """

    @property
    def name(self) -> str:
        """As the user wrote it, for messages."""

    def put(self, name: str, content: bytes) -> None:
        """The file has this content, and had the old one, whole, up to that moment."""

    def create(self, name: str, content: bytes) -> None:
        """The file is there with this content; `FileExistsError` where there is one already."""

    def get(self, name: str) -> bytes:
        """The file's content; `FileNotFoundError` where there is none."""

    def names(self, under: str = "") -> list[str]:
        """What lies directly under this name, sorted, hidden files too; folders end in a slash.

        Empty where there is no such folder; `NotADirectoryError` where the name is a file's.
        """

    def remove(self, name: str) -> None:
        """The file is not there, or was not."""


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A directory on this machine; it is made with its first file."""

    name: str
    path: str  # absolute

    def put(self, name: str, content: bytes) -> None:
        """On disk when it returns, the directory's entry included."""
        path = self.path_of(name)
        make_directories(os.path.dirname(path))
        with _named(path), written_whole(path) as stream:
            stream.write(content)

    def create(self, name: str, content: bytes) -> None:
        """A crash between the two leaves an empty file."""
        path = self.path_of(name)
        make_directories(os.path.dirname(path))
        with _named(path), open(path, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())

    def get(self, name: str) -> bytes:
        """Read at once."""
        with open(self.path_of(name), "rb") as stream:
            return stream.read()

    def names(self, under: str = "") -> list[str]:
        """Links are told by what they point to."""
        try:
            with os.scandir(self.path_of(under)) as entries:
                return sorted(
                    f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries
                )
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if os.path.exists(self.path_of(under)):
                raise
            return []  # a folder above it is a file

    def remove(self, name: str) -> None:
        """A removal may be undone by a power cut: the file is then one that nobody names."""
        with suppress(FileNotFoundError):
            os.unlink(self.path_of(name))

    def path_of(self, name: str) -> str:
        """The file's absolute path."""
        return os.path.join(self.path, name) if name else self.path


def open_folder(url: str) -> Folder:
    """The folder of this path or URL; nothing is made yet.

    Raises:
        ConfigError: an unknown protocol, or one whose package is not installed
    """
    path = local_path(url)
    return open_remote(url) if path is None else LocalFolder(url, os.path.abspath(path))


def make_directories(path: str) -> list[str]:
    """The directory is there, durably; returns those that had to be made, the outermost first."""
    missing: list[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    missing.reverse()
    for directory in missing:
        with suppress(FileExistsError):
            os.mkdir(directory)
        _sync(os.path.dirname(directory))
    return missing


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """A failure names the file that was asked for, not the temporary one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = path, None
        raise
