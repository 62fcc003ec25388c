"""The summary of a complete run; the manifest says by its digest which file is that."""

from __future__ import annotations

import json
from typing import Any

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import SUMMARY, Manifest, read_manifest
from batchpipe.journal.part_file import DamagedFile, fetched


def packed_summary(summary: dict[str, Any]) -> bytes:
    """The summary as its file has it."""
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def read_summary(folder: Folder) -> dict[str, Any] | None:
    """The summary of the run in this folder; None where it is not complete, or there is none."""
    manifest = read_manifest(folder)
    return None if manifest is None else summary_of(folder, manifest)


def summary_of(folder: Folder, manifest: Manifest) -> dict[str, Any] | None:
    """The summary that the manifest names; None where it names none, or that is damaged."""
    if manifest.summary_digest is None:
        return None
    try:
        return dict(json.loads(fetched(folder, SUMMARY, manifest.summary_digest)))
    except DamagedFile:
        return None
