"""How a run ends for good: the user asked for another one in its place."""

from __future__ import annotations

from dataclasses import replace

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import MANIFEST, Manifest, Outdated, packed, read_manifest
from batchpipe.journal.moments import reached
from batchpipe.journal.recovery import sweep

PLAN = "plan.parquet"  # each session writes it anew


def discard(folder: Folder) -> None:
    """The folder holds no run any more; files that no run writes stay.

    Killed in between, it is a run without results, or, where its manifest was damaged or of another
    version, still a run that is only there to be discarded. The caller holds the lock.

    Raises:
        ConfigError: the manifest is none of batchpipe's
    """
    try:
        manifest = read_manifest(folder)
    except Outdated:
        manifest = None
    else:
        if manifest is None:
            return
        manifest = replace(manifest, repairs=(), parts=(), pace=(), summary_digest=None)
        reached("discard: before its manifest")
        folder.put(MANIFEST, packed(manifest))
    clear(folder, manifest or Manifest({}, "", {}))
    reached("discard: before the manifest goes")
    folder.remove(MANIFEST)
    reached("discard: after the manifest went")


def clear(folder: Folder, manifest: Manifest) -> None:
    """Only what this manifest names is left of what runs have written."""
    sweep(folder, manifest)
    reached("discard: before a removal")
    folder.remove(PLAN)
