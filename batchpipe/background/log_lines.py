"""The log of a background process, read while it grows."""

from __future__ import annotations

import os
import sys

TAIL_BYTES = 8192


class LogLines:
    """What is written to the file from now on, or behind so many bytes."""

    def __init__(self, path: str, read_bytes: int | None = None) -> None:
        if read_bytes is None:
            read_bytes = os.path.getsize(path) if os.path.exists(path) else 0
        self._path = path
        self.read_bytes = read_bytes

    def new(self) -> list[str]:
        """The lines that were finished since they were asked for last."""
        try:
            with open(self._path, "rb") as stream:
                stream.seek(self.read_bytes)
                whole, newline, _ = stream.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self.read_bytes += len(whole + newline)
        return whole.decode("utf-8", "replace").splitlines()


def last_line(path: str) -> str:
    """The last words in the file; empty where there are none."""
    sys.stdout.flush()
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
