"""One other rank as rank 0 sees it: its process, and the pipe to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import Pipe

import torch

from batchpipe.engine.ranks.meeting import broken_off, environment
from batchpipe.engine.ranks.orders import Done, Failed, unpacked

MODULE = "batchpipe.engine.ranks.rank"
CPU = torch.device("cpu")
END_SECONDS = 5.0  # for a rank to end by itself, and for word of one that has


class Other:
    """One rank: its process and the pipe to it."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank = rank
        self.connection, theirs = Pipe()
        search = os.pathsep.join(path for path in sys.path if path)
        line = [sys.executable, "-P", "-m", MODULE, str(theirs.fileno())]
        self.process = subprocess.Popen(  # noqa: S603  a list, and no shell
            line,
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__,  # this process's own may be somebody's JSON
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C is rank 0's, and so is what becomes of it
            env={**os.environ, **environment(rank, ranks), "PYTHONPATH": search},
        )
        theirs.close()  # then its end is the end of the pipe

    def said(self) -> Done | Failed:
        """Its next word, or that it ended without one."""
        try:
            message: Done | Failed = unpacked(self.connection.recv_bytes(), CPU)
        except (EOFError, OSError):
            return Failed(self._end())
        return message

    def _end(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(END_SECONDS)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "it no longer answers"

    def watch(self, closing: threading.Event, lost: threading.Event, port: int) -> None:
        """From now on ``lost`` is set as soon as it ends, unless it was meant to."""
        watched = (self.process, closing, lost, port)  # without the pipe, whose end it must see
        threading.Thread(target=_watch, args=watched, daemon=True).start()

    def end(self, seconds: float) -> None:
        """It has ended, by itself if it does so in time."""
        try:
            self.process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _watch(
    process: subprocess.Popen[bytes], closing: threading.Event, lost: threading.Event, port: int
) -> None:
    process.wait()
    if not closing.is_set():
        lost.set()
        broken_off(port)
