"""The lock where no kernel keeps one: a file with a beat in it that its holder moves on.

No wall clocks are compared: who waits looks, by its own steady clock, whether the beat moves.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from contextlib import suppress
from types import TracebackType

from batchpipe.journal.folder import Folder
from batchpipe.journal.holder import LOCK, Holder, busy, lost, parsed
from batchpipe.journal.remote_folder import RemoteFolder

BEAT_SECONDS = 10.0
STALE_SECONDS = 35.0  # three beats and a slow request
LOOK_SECONDS = 2.0  # between two looks at another's beat
SETTLE_SECONDS = 2.0  # after which a write that crossed ours would have been seen


class Lease:
    """Held from `hold_lease` to `release`, or until it beats no more.

    A process that is frozen between `check` and the write behind it may still write over what the
    next holder wrote. The manifest then names one's parts or the other's, never a mixture.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._beat = 0
        self._record = Holder.me().as_record()
        self._lost = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beating, name="lease", daemon=True)

    def content(self) -> bytes:
        """What the file has, with the next beat."""
        self._beat += 1
        return json.dumps({**self._record, "token": self._token, "beat": self._beat}).encode()

    def start(self) -> None:
        """The beat moves on from now."""
        self._thread.start()

    def is_ours(self) -> bool:
        """True where the file has our token."""
        with suppress(FileNotFoundError):
            return parsed(self._folder.get(LOCK)).get("token") == self._token
        return False

    def check(self) -> None:
        """Raise `LostLock` where another process has taken over."""
        if self._lost or not self.is_ours():
            self._lost = True
            raise lost(self._folder.name, _read(self._folder)[1])

    def release(self) -> None:
        """Anyone may hold the lock."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(OSError):  # else it is stale soon
            if not self._lost and self.is_ours():
                self._folder.remove(LOCK)
        self._lost = True

    def _beating(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            with suppress(OSError):  # the next beat may come through
                began = time.monotonic()
                if not self.is_ours():
                    self._lost = True
                    return
                self._folder.put(LOCK, self.content())
                if time.monotonic() - began > STALE_SECONDS / 2:
                    # Frozen between the two, it may have written over a new holder's lock: then
                    # that one stops at its next look, and so does this one.
                    self._lost = True
                    return

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def hold_lease(folder: Folder) -> Lease:
    """The folder's lock, taken over where its holder is dead or does not beat.

    Raises:
        Busy: another process holds it
        OSError: the folder cannot be written
    """
    lease = Lease(folder)
    while not (created := _created(folder, lease.content())):
        if is_alive(folder):
            raise busy(folder.name, _read(folder)[1])
        if _read(folder)[0]:
            folder.put(LOCK, lease.content())
            break
    if not created or (isinstance(folder, RemoteFolder) and not folder.creates_exclusively):
        time.sleep(SETTLE_SECONDS)
        if not lease.is_ours():
            raise busy(folder.name, _read(folder)[1])
    lease.start()
    return lease


def _created(folder: Folder, content: bytes) -> bool:
    with suppress(FileExistsError):
        folder.create(LOCK, content)
        return True
    return False


def lease_holder(folder: Folder) -> Holder | None:
    """Who holds the lock now; it may take as long as a beat to see, longer where it is nobody."""
    return _read(folder)[1] or Holder("?", 0, "", "", "?") if is_alive(folder) else None


def is_alive(folder: Folder) -> bool:
    """True once the beat moved; false once it should have and did not, or its process is dead."""
    content, holder = _read(folder)
    until = time.monotonic() + STALE_SECONDS
    while content and (holder is None or not holder.is_dead()):
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_SECONDS)
        now, holder = _read(folder)
        if now and now != content:
            return True
        content = now
    return False


def _read(folder: Folder) -> tuple[bytes, Holder | None]:
    """The lock's content, empty where there is none, and whom it names."""
    try:
        content = folder.get(LOCK)
    except (FileNotFoundError, NotADirectoryError):
        return b"", None
    return content or b"{}", Holder.of(parsed(content))
