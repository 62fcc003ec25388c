"""What a background process keeps in its run directory, beside the run: lock, end and log."""

from __future__ import annotations

import os
import posixpath
import tempfile
from hashlib import blake2b

from batchpipe.journal.folder import Folder, open_folder
from batchpipe.journal.lock import BACKGROUND
from batchpipe.rows.location import local_path

ENDED = "ended.json"  # how the last process ended, in its own words; not there while one runs
LOG = "log"  # what all of them said


def room_of(run_dir: str) -> Folder:
    """The folder whose lock the process holds from its first moment to its last."""
    return open_folder(posixpath.join(run_dir, BACKGROUND))


def log_path(run_dir: str) -> str:
    """The log's file, always of this machine: no store appends to a file."""
    path = local_path(run_dir)
    if path is not None:
        return os.path.join(os.path.abspath(path), BACKGROUND, LOG)
    name = blake2b(run_dir.encode(), digest_size=8).hexdigest()
    return os.path.join(tempfile.gettempdir(), f"batchpipe-{name}.log")
