"""A folder of an object store, or of any other file system that fsspec has a driver for."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from batchpipe.rows.location import file_system
from batchpipe.rows.words import one_line

# Stores whose drivers create a file only where there is none, in one step. S3 does, but not every
# store that speaks its protocol, and nothing tells them apart.
CREATES_EXCLUSIVELY = {"memory", "gs", "gcs", "az", "abfs", "abfss", "adl"}

_ERRNO = {
    FileNotFoundError: errno.ENOENT,
    FileExistsError: errno.EEXIST,
    NotADirectoryError: errno.ENOTDIR,
    IsADirectoryError: errno.EISDIR,
    PermissionError: errno.EACCES,
    TimeoutError: errno.ETIMEDOUT,
}


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """Object stores put a file whole or not at all; of others a checksum finds half a file."""

    name: str
    filesystem: Any
    root: str  # inside the file system

    def put(self, name: str, content: bytes) -> None:
        """One request, or one upload that its last request makes visible."""
        with self._named(name) as address:
            self.filesystem.pipe_file(address, content)

    def create(self, name: str, content: bytes) -> None:
        """Where `creates_exclusively` is false, two at once may both believe that it was them."""
        try:
            with self._named(name) as address:
                self.filesystem.pipe_file(address, content, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            # Drivers and stores without conditional writes say so in many ways.
            with suppress(FileNotFoundError):
                self.get(name)
                raise FileExistsError(errno.EEXIST, "it exists", self._url(name)) from error
            self.put(name, content)

    @property
    def creates_exclusively(self) -> bool:
        """Whether `create` lets only one of two at once go on."""
        protocol = self.filesystem.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        return bool(names & CREATES_EXCLUSIVELY)

    def get(self, name: str) -> bytes:
        """Read at once."""
        with self._named(name) as address:
            return bytes(self.filesystem.cat_file(address))

    def names(self, under: str = "") -> list[str]:
        """Asked for anew: drivers keep listings, and others write here too."""
        parent = posixpath.join(self.root, under).rstrip("/")
        found: set[str] = set()
        try:
            with self._named(under):
                self.filesystem.invalidate_cache()
                for entry in self.filesystem.ls(parent, detail=True):
                    address = entry["name"].rstrip("/")
                    name = posixpath.basename(address)
                    if address.strip("/") != parent.strip("/"):
                        found.add(f"{name}/" if entry["type"] == "directory" else name)
                    elif entry["type"] != "directory" and not entry["name"].endswith("/"):
                        raise NotADirectoryError(errno.ENOTDIR, "it is a file", self._url(under))
        except FileNotFoundError:
            return []
        return sorted(found)

    def remove(self, name: str) -> None:
        """Most stores say nothing where there is no such file."""
        with suppress(FileNotFoundError), self._named(name) as address:
            self.filesystem.rm_file(address)

    def _url(self, name: str) -> str:
        return posixpath.join(self.name, name)

    @contextmanager
    def _named(self, name: str) -> Iterator[str]:
        """The file's address; whatever a driver raises becomes an ``OSError`` with its name."""
        try:
            yield posixpath.join(self.root, name)
        except Exception as error:
            number = getattr(error, "errno", None)
            if not isinstance(error, OSError) or number is None:
                number = next((_ERRNO[kind] for kind in _ERRNO if isinstance(error, kind)), None)
            reason = getattr(error, "strerror", None) or one_line(str(error) or repr(error))
            raise OSError(number or errno.EIO, reason, self._url(name)) from error


def open_remote(url: str) -> RemoteFolder:
    """The folder of this URL; nothing is made yet.

    Raises:
        ConfigError: an unknown protocol, or one whose package is not installed
    """
    filesystem, root = file_system(url)
    return RemoteFolder(url, filesystem, root.rstrip("/"))
