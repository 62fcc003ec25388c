"""Files that appear under their name whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast


@contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """When the block ends, ``path`` has all that it wrote, on disk; when it fails, the old file.

    The bytes go to a hidden name in the same folder, are synced, and take the name by one rename.
    A full disk is the ``OSError`` that it is, with ``path`` as its file name.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield cast(BinaryIO, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename, error.filename2 = path, None
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """The rename itself is on disk afterwards, where the file system can promise that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
