"""The lock of a local directory: the kernel's, which ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from types import TracebackType

from batchpipe.journal.folder import LocalFolder, make_directories
from batchpipe.journal.holder import LOCK, Holder, busy, lost, parsed

# What file systems without locks answer.
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

PATIENCE_SECONDS = 0.5  # `file_holder` takes the lock for an instant to see whether it can
LOOK_SECONDS = 0.02


class FileLock:
    """Held from `hold_file` to `release`, or to the end of the process."""

    def __init__(self, folder: LocalFolder, descriptor: int, made: list[str]) -> None:
        self._folder, self._descriptor = folder, descriptor
        self._made = made  # directories that were not there before

    def check(self) -> None:
        """Raise `LostLock` where the lock's file is not the locked one any more."""
        if not _is(self._folder.path_of(LOCK), self._descriptor):
            raise lost(self._folder.name, _named_holder(self._folder))

    def release(self) -> None:
        """Anyone may hold the lock; a directory in which no run began is not there any more."""
        if self._descriptor < 0:
            return
        if not os.path.exists(self._folder.path_of("manifest.json")):
            self._folder.remove(LOCK)
            with suppress(OSError):
                for directory in reversed(self._made):
                    os.rmdir(directory)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def hold_file(folder: LocalFolder) -> FileLock:
    """The directory's lock; the directory is made where there is none.

    Raises:
        Busy: another process holds it
        OSError: the directory cannot be made or written, or its file system has no locks
    """
    until = time.monotonic() + PATIENCE_SECONDS
    made: list[str] = []
    while True:
        made += make_directories(folder.path)
        descriptor = _locked(folder.path_of(LOCK))
        if descriptor is not None:
            break
        if time.monotonic() >= until:
            raise busy(folder.name, _named_holder(folder))
        time.sleep(LOOK_SECONDS)
    with suppress(OSError):  # the disk is full: only those who ask who it is are not told
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(Holder.me().as_record()).encode(), 0)
    return FileLock(folder, descriptor, made)


def file_holder(folder: LocalFolder) -> Holder | None:
    """Who holds the lock now.

    Raises:
        OSError: the file system has no locks, or the file cannot be read
    """
    try:
        descriptor = os.open(folder.path_of(LOCK), os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named_holder(folder) or Holder("?", 0, "", "", "?")
    finally:
        os.close(descriptor)
    return None


def _locked(path: str) -> int | None:
    """A descriptor of the file with the lock on it; None where another was faster."""
    try:
        descriptor, is_new = _opened(path)
    except (FileNotFoundError, FileExistsError):
        return None  # the directory was just taken away, or the file just made
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(path, descriptor):
            return descriptor
        os.close(descriptor)  # its last holder has removed it meanwhile
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        if is_new:  # an empty file would be taken for a lease
            os.unlink(path)
        error.filename = path
        raise
    return None


def _opened(path: str) -> tuple[int, bool]:
    """A descriptor, and whether the file was made for it."""
    try:
        return os.open(path, os.O_RDWR), False
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True


def _is(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _named_holder(folder: LocalFolder) -> Holder | None:
    with suppress(OSError):
        return Holder.of(parsed(folder.get(LOCK)))
    return None
