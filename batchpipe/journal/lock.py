"""Exactly one process writes a run."""

from __future__ import annotations

import errno
import re
from types import TracebackType
from typing import Protocol

from batchpipe.errors import ConfigError
from batchpipe.journal.file_lock import UNSUPPORTED, file_holder, hold_file
from batchpipe.journal.folder import Folder, LocalFolder
from batchpipe.journal.holder import LOCK, Busy, Holder, LostLock
from batchpipe.journal.lease import hold_lease, lease_holder
from batchpipe.journal.manifest import Outdated, read_manifest

__all__ = ["Busy", "Holder", "Lock", "LostLock", "hold", "holder", "refuse_foreign", "take"]

BACKGROUND = "background"  # the folder of the process that runs it, if it is one in the background

# What a run that was killed at its very start may have left; a dataframe's rows come before it.
_LEFT = re.compile(
    rf"{LOCK}|input\.parquet|\.({LOCK}|manifest\.json|input\.parquet)\..*|(parts|repairs)/"
)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Lock(Protocol):
    """Held until it is released; used in a ``with`` statement, until its end."""

    def check(self) -> None:
        """Raise `LostLock` where another process has taken over."""

    def release(self) -> None:
        """Anyone may hold the lock."""

    def __enter__(self) -> Lock: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def hold(folder: Folder) -> Lock:
    """This process alone writes the folder; it is made where there is none.

    Raises:
        Busy: another process does
        ConfigError: the folder is somebody else's, or cannot be made or written
    """
    refuse_foreign(folder)
    return take(folder)


def take(folder: Folder) -> Lock:
    """The same for a folder in which anything may lie.

    Raises:
        Busy: another process does
        ConfigError: the folder cannot be made or written
    """
    try:
        if isinstance(folder, LocalFolder):
            try:
                return hold_file(folder)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
        return hold_lease(folder)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise
        at_its_file = str(error.filename).endswith(f"/{LOCK}")
        raise ConfigError(
            f"the run directory {folder.name} cannot be {'written' if at_its_file else 'made'} "
            f"({error.strerror or error}); choose another with --run-dir"
        ) from error


def holder(folder: Folder) -> Holder | None:
    """Who writes the run now; None where nobody does."""
    if isinstance(folder, LocalFolder):
        try:
            return file_holder(folder)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    return lease_holder(folder)


def refuse_foreign(folder: Folder) -> None:
    """Raise `ConfigError` where the folder holds what no run has left."""
    try:
        names = folder.names()
    except NotADirectoryError as error:
        raise ConfigError(f"{folder.name} is a file; choose another --run-dir") from error
    except OSError as error:
        raise ConfigError(
            f"the run directory {folder.name} cannot be read ({error.strerror or error}); choose "
            f"another with --run-dir"
        ) from error
    if "manifest.json" in names:
        try:
            read_manifest(folder)
        except Outdated:
            return  # it is ours, to discard
    elif any(
        not _LEFT.fullmatch(name) or (name.endswith("/") and folder.names(name))
        for name in names
        if name != f"{BACKGROUND}/"
    ):
        raise ConfigError(
            f"{folder.name} is no run directory and not empty; choose another --run-dir"
        )
