"""The other ranks as rank 0 sees them: started, told, heard and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from typing import NoReturn

import torch

from batchpipe.engine.faults import first_line, is_out_of_memory
from batchpipe.engine.ranks.meeting import broken_off, environment, met, opened, parted
from batchpipe.engine.ranks.orders import Done, Failed, Meet, Order, packed, unpacked
from batchpipe.errors import GOES_ON, ConfigError, DeviceLost, OutOfMemory

MODULE = "batchpipe.engine.ranks.rank"
CPU = torch.device("cpu")
END_SECONDS = 5.0  # for a rank to end by itself, and for word of one that has


class _Other:
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


class OtherRanks:
    """The processes of ranks 1 to ``ranks - 1``, which live as long as this object at most.

    The other end of each one's pipe is held here alone: with this process, killed or not, they end.

    Raises:
        ConfigError: this process is in a group of torch.distributed already
        DeviceLost: one of them does not start
    """

    def __init__(self, ranks: int, device: torch.device, threads: int) -> None:
        self.ranks, self._device = ranks, device
        self._lost, closing = threading.Event(), threading.Event()
        store = opened(ranks)
        self._others = [_Other(rank, ranks) for rank in range(1, ranks)]
        self._finalizer = weakref.finalize(
            self, _end, self._others, closing, torch.get_num_threads()
        )
        torch.set_num_threads(threads)
        self.hear()  # each is there: from here on nobody waits for one that cannot start
        for other in self._others:
            watched = (other.process, closing, self._lost)
            threading.Thread(target=_watch, args=watched, daemon=True).start()
        with self.together(Meet(ranks, store.port, device.type, threads)):
            met(0, ranks, store, device)

    def tell(self, order: Order) -> None:
        """Each of them has the order. Raises as `hear` does."""
        content = packed(order)
        for other in self._others:
            try:
                other.connection.send_bytes(content)
            except OSError:
                self._stop(other, other.said())

    def hear(self) -> list[Done]:
        """What each says of its order, once it has carried it out.

        Raises:
            ConfigError: one cannot, for what it was given
            OutOfMemory: one has no memory for it
            DeviceLost: one has ended
        """
        done: list[Done] = []
        for other in self._others:
            word = other.said()
            if isinstance(word, Failed):
                self._stop(other, word)
            done.append(word)
        return done

    @contextmanager
    def together(self, order: Order) -> Iterator[None]:
        """They carry out the order while this process does its own part within.

        A collective operation that one rank has left cannot be taken back by the others, so even
        lack of memory ends them all. Raises as `hear` does, or what went wrong here alone.
        """
        self.tell(order)
        try:
            yield
            if self._device.type == "cuda":  # nothing may be read of a collective broken off
                torch.cuda.synchronize(self._device)
            if self._lost.is_set():
                raise RuntimeError("a rank has ended")
        except (MemoryError, RuntimeError, ConfigError) as error:
            self._judge(error)

    def close(self) -> None:
        """None of them is left, and their group is no more."""
        self._finalizer()

    def _judge(self, error: Exception) -> NoReturn:
        """Raises what the error here came from: often it only tells that another has ended."""
        if is_out_of_memory(error):
            broken_off()
            self.close()
            raise _out_of_memory(0, first_line(error)) from error
        self._lost.wait(END_SECONDS)
        for other in self._others:
            if other.connection.poll():  # its last word, or the pipe's end
                self._stop(other, other.said())
        self.close()
        raise error

    def _stop(self, other: _Other, word: Done | Failed) -> NoReturn:
        assert isinstance(word, Failed), f"rank {other.rank} has done what it was told: {word}"
        broken_off()
        self.close()
        if word.kind == "memory":
            raise _out_of_memory(other.rank, word.why)
        if word.kind == "setting":
            raise ConfigError(word.why)
        raise DeviceLost(
            f"rank {other.rank} of {self.ranks}, which holds its part of the model, ended "
            f"({word.why}); {GOES_ON}"
        )


def _out_of_memory(rank: int, why: str) -> OutOfMemory:
    return OutOfMemory(
        f"the device of rank {rank} has no memory left for its part of a step ({why}); give the "
        f"same command with a lower --kv-memory or --step-tokens, and it goes on from what is on "
        f"disk"
    )


def _watch(
    process: subprocess.Popen[bytes], closing: threading.Event, lost: threading.Event
) -> None:
    process.wait()
    if not closing.is_set():
        lost.set()
        broken_off()


def _end(others: Sequence[_Other], closing: threading.Event, threads: int) -> None:
    closing.set()
    for other in others:
        other.connection.close()
    until = time.monotonic() + END_SECONDS
    for other in others:
        try:
            other.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            other.process.kill()
            other.process.wait()
    parted()
    torch.set_num_threads(threads)
