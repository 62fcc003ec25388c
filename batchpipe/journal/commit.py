"""One way to change what a run holds: put a file, put the manifest that names it, clear up.

The manifest is the commit. A process that dies before it has changed nothing, one that dies behind
it has changed all; files that are named no more are removed here or by the next writer.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from batchpipe.journal.folder import Folder
from batchpipe.journal.lock import Lock
from batchpipe.journal.manifest import MANIFEST, Manifest, packed
from batchpipe.journal.moments import reached


def commit(
    folder: Folder,
    lock: Lock,
    kind: str,
    before: Manifest | None,
    after: Manifest,
    files: Mapping[str, bytes],
) -> None:
    """The run is what the manifest ``after`` says; these files of it are new.

    Args:
        kind: for the names of the moments
        before: the manifest that is replaced

    Raises:
        LostLock: another process writes the run; nothing was changed
        OSError: the folder cannot be written, and the run is what it was before
    """
    for name, content in files.items():
        assert name in after.files(), f"{name} is put and not named"
        lock.check()
        reached(f"{kind}: before its file")
        folder.put(name, content)
    reached(f"{kind}: before its manifest")
    lock.check()
    folder.put(MANIFEST, packed(after))
    reached(f"{kind}: after its manifest")
    gone = set() if before is None else before.files() - after.files()
    for name in sorted(gone):
        with suppress(OSError):  # the next writer does it
            folder.remove(name)
        reached(f"{kind}: after a removal")
