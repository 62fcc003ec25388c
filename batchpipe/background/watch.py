"""Starts a run in the background, looks at it and stops it, from any process that may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchpipe.background.log_lines import last_line
from batchpipe.background.room import ENDED, log_path, room_of
from batchpipe.errors import BatchpipeError, ConfigError
from batchpipe.journal.lock import holder

LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a background process ended."""

    code: int | None  # its exit code; None where it was killed, or never started
    said: str  # the last line of its log


def look(run_dir: str) -> Ended | None:
    """How the run's process ended; None while it lives."""
    room = room_of(run_dir)
    if holder(room) is not None:
        return None
    try:
        record = json.loads(room.get(ENDED))
    except (FileNotFoundError, NotADirectoryError):
        return Ended(None, last_line(log_path(run_dir)))
    return Ended(record["code"], record["said"])


def launch(
    python: str, command: Sequence[str], run_dir: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A process of its own session runs the command, or has run it: `look` tells of it from now on.

    No signal to whoever started it reaches it, and it outlives them.

    Raises:
        ConfigError: the interpreter is not there, or knows no batchpipe
    """
    room = room_of(run_dir)
    log = log_path(run_dir)
    os.makedirs(os.path.dirname(log), exist_ok=True)
    room.remove(ENDED)
    line = [python, "-P", "-m", "batchpipe.background.process", run_dir, *command]
    with open(log, "ab") as stream:
        try:
            process = subprocess.Popen(  # noqa: S603  a list, and no shell
                line,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise ConfigError(
                f"{python} cannot be started ({error.strerror}): give the Python where batchpipe is"
            ) from error
    while process.poll() is None and holder(room) is None:
        time.sleep(LOOK_SECONDS)
    if process.returncode == 1 and look(run_dir) == Ended(None, said := last_line(log)):
        raise ConfigError(
            f"{python} cannot run batchpipe ({said}): pip install batchpipe there, or give the "
            f"Python where it is"
        )
    return process


def stop(run_dir: str) -> bool:
    """The run's process is asked to stop, resumably; False where none lives.

    Raises:
        BatchpipeError: it lives on another machine
    """
    who = holder(room_of(run_dir))
    if who is None:
        return False
    if not who.is_here():
        raise BatchpipeError(f"{who} answers {run_dir}, and cannot be stopped from this machine")
    os.kill(who.pid, signal.SIGTERM)
    return True
