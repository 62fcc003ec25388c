"""Real processes that hold a lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

HOLDING = """
import sys
from batchpipe.journal.folder import open_folder
from batchpipe.journal.lock import hold
with hold(open_folder(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(url: str, script: str = HOLDING) -> Iterator[subprocess.Popen[str]]:
    """A real process that holds the lock until its input ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        said: IO[str] | None = process.stdout
        assert said is not None
        assert said.readline() == "held\n"
        yield process
