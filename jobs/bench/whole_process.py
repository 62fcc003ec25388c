"""A command as a whole: seconds from start to exit, peak memory with its children, last words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

WATCH_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Finished:
    """What a command took, and the JSON object that ends its stdout."""

    wall_seconds: float
    cpu_seconds: float  # of all its processes and threads, waiting in a spin included
    peak_bytes: int
    summary: dict[str, Any]


def measure(
    arguments: Sequence[str],
    folder: Path,
    extra: Mapping[str, str] | None = None,
    speaks: bool = True,
) -> Finished:
    """The command has exited with 0; its words lie in the folder.

    ``extra`` are variables of its environment. A command that ``speaks`` ends with a JSON object.
    `os.wait4` gives the peak of the largest process alone; engines that start others of their own
    are watched from outside as well.
    """
    with (folder / "stdout").open("wb+") as stdout, (folder / "stderr").open("wb+") as stderr:
        started = time.perf_counter()
        child = subprocess.Popen(
            arguments,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | dict(extra or {}),
            start_new_session=True,
        )
        watch = _Watch(child.pid)
        watch.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            watch.ended.set()
        wall_seconds = time.perf_counter() - started
        watch.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        said, complained = stdout.read().decode(), stderr.read().decode()
    if child.returncode != 0:
        shown = " ".join(arguments)
        raise click.ClickException(f"exit {child.returncode} of: {shown}\n{complained[-2000:]}")
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    peak_bytes = max(usage.ru_maxrss * unit_bytes, watch.peak_bytes)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Finished(wall_seconds, cpu_seconds, peak_bytes, _last_object(said) if speaks else {})


class _Watch(threading.Thread):
    """Sees the most memory that a session's processes held at a time; on Linux alone."""

    def __init__(self, session: int) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.peak_bytes = 0
        self._session = session

    def run(self) -> None:
        """Look until the end is told."""
        while Path("/proc/self/statm").exists() and not self.ended.wait(WATCH_SECONDS):
            self.peak_bytes = max(self.peak_bytes, _session_bytes(self._session))


def _session_bytes(session: int) -> int:
    """Resident memory of the session's processes, pages that may be shared counted once."""
    private, shared = 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[3]) != session:
                continue
            resident, common = map(int, (folder / "statm").read_text().split()[1:3])
        except (OSError, IndexError):  # it ended meanwhile
            continue
        private += resident - common
        shared = max(shared, common)
    return (private + shared) * os.sysconf("SC_PAGE_SIZE")


def _last_object(text: str) -> dict[str, Any]:
    """The JSON object that ends the text, printed on one line or on many."""
    lines = text.strip().splitlines()
    for first in range(len(lines) - 1, -1, -1):
        if lines[first].startswith("{"):
            found: dict[str, Any] = json.loads("\n".join(lines[first:]))
            return found
    raise click.ClickException(f"no JSON summary on stdout: {text[-500:]!r}")
