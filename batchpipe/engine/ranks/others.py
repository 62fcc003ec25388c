"""The other ranks as rank 0 sees them: started, told, heard and ended."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import NoReturn

import torch

from batchpipe.engine.faults import first_line, is_out_of_memory
from batchpipe.engine.ranks.meeting import being_rank_0, broken_off, met, opened, parted
from batchpipe.engine.ranks.orders import Done, Drop, Failed, Meet, Order, Told, packed
from batchpipe.engine.ranks.other import END_SECONDS, Other
from batchpipe.errors import GOES_ON, BatchpipeError, ConfigError, DeviceLost, OutOfMemory


class OtherRanks:
    """The processes of ranks 1 to ``ranks - 1``, which live as long as this object at most.

    They have a slice of every model that this process divides, each with a number of its own. The
    other end of each one's pipe is held here alone: with this process, killed or not, they end.

    Raises:
        ConfigError: this process is in a group of torch.distributed already
        DeviceLost: one of them does not start
    """

    def __init__(self, ranks: int, device: torch.device, threads: int) -> None:
        self.ranks, self.device = ranks, device
        self.lock = threading.RLock()  # held from an order to what is said of it
        self.numbers = count()  # for models
        self.are_new = True  # no model has been divided among them
        self.ended: str | None = None  # why, once they have
        self._gone: deque[int] = deque()  # models, of which they are still to be told
        self._lost, closing = threading.Event(), threading.Event()
        store = opened(ranks)
        self._port = store.port
        self._others: list[Other] = []
        self._finalizer = weakref.finalize(
            self, _end, self._others, closing, torch.get_num_threads()
        )
        torch.set_num_threads(threads)
        self._others += [Other(rank, ranks) for rank in range(1, ranks)]
        self.hear()  # each is there: from here on nobody waits for one that cannot start
        for other in self._others:
            other.watch(closing, self._lost, self._port)
        with self.together(next(self.numbers), Meet(ranks, self._port, device.type, threads)):
            met(0, ranks, store, device)

    @property
    def are_there(self) -> bool:
        """False once one of them has ended, and with it all."""
        with self.lock, suppress(BatchpipeError):  # who asks them again is told
            if self.ended is None:
                self._look()
        return self.ended is None

    def tell(self, model: int, order: Order) -> None:
        """Each of them has the order. Raises as `hear` does."""
        if self.ended is not None:
            raise DeviceLost(self.ended)
        while self._gone:
            self._send(Told(self._gone.popleft(), Drop()))
        self._send(Told(model, order))

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
    def together(self, model: int, order: Order) -> Iterator[None]:
        """They carry out the order while this process does its own part within.

        A collective operation that one rank has left cannot be taken back by the others, so
        whatever goes wrong ends them all. Raises as `hear` does, or what went wrong here alone.
        """
        with self.lock:
            self.tell(model, order)
            try:
                yield
                if self.device.type == "cuda":  # nothing may be read of a collective broken off
                    torch.cuda.synchronize(self.device)
                if self._lost.is_set():
                    raise RuntimeError("a rank has ended")
            except BaseException as error:
                self._judge(error)

    def drop(self, model: int) -> None:
        """They give back this model's slices with their next order. Waits for nobody."""
        self._gone.append(model)

    def close(self, why: str) -> None:
        """None of them is left, and their group is no more."""
        self.ended = self.ended or why
        broken_off(self._port)
        self._finalizer()

    def _send(self, told: Told) -> None:
        content = packed(told)
        for other in self._others:
            try:
                other.connection.send_bytes(content)
            except OSError:
                self._stop(other, other.said())

    def _judge(self, error: BaseException) -> NoReturn:
        """Raises what the error here came from: often it only tells that another has ended."""
        if is_out_of_memory(error):
            told = _out_of_memory(0, first_line(error))
            self.close(str(told))
            raise told from error
        if isinstance(error, Exception):
            self._lost.wait(END_SECONDS)
            self._look()
        self.close(
            f"the processes that share the model were ended amid a step "
            f"({type(error).__name__}); {GOES_ON}"
        )
        raise error

    def _look(self) -> None:
        """Nobody has said a last word. Raises as `hear` does."""
        for other in self._others:
            if other.connection.poll():  # that word, or the pipe's end
                self._stop(other, other.said())

    def _stop(self, other: Other, word: Done | Failed) -> NoReturn:
        assert isinstance(word, Failed), f"rank {other.rank} has done what it was told: {word}"
        lost = (
            f"rank {other.rank} of {self.ranks}, which holds its part of the model, ended "
            f"({word.why}); {GOES_ON}"
        )
        told: BatchpipeError = DeviceLost(lost)
        if word.kind == "memory":
            told = _out_of_memory(other.rank, word.why)
        elif word.kind == "setting":
            told = ConfigError(word.why)
        self.close(lost)
        raise told


# torch has one group in a process, so there is one set of other ranks, for all that it divides.
_here: weakref.WeakValueDictionary[str, OtherRanks] = weakref.WeakValueDictionary()
_meeting = threading.Lock()


def others_here(ranks: int, device: torch.device) -> OtherRanks:
    """The other ranks that this process has, or new ones.

    Raises:
        ConfigError: it has a model on another number of devices, or a group of somebody else's
        DeviceLost: a rank does not start
    """
    with _meeting:
        found = _here.get("others")
        if found is None or not found.are_there:
            with being_rank_0(ranks):
                found = OtherRanks(ranks, device, max(1, torch.get_num_threads() // ranks))
            _here["others"] = found
        if (found.ranks, found.device) != (ranks, device):
            raise ConfigError(
                f"--tensor-parallel {ranks}: this process has a model on {found.ranks} devices "
                f"({found.device.type}), and all that it divides are on the same; give "
                f"--tensor-parallel {found.ranks}, or close the other first"
            )
        return found


def _out_of_memory(rank: int, why: str) -> OutOfMemory:
    return OutOfMemory(
        f"the device of rank {rank} has no memory left for its part of a step ({why}); give the "
        f"same command with a lower --kv-memory or --step-tokens, and it goes on from what is on "
        f"disk"
    )


def _end(others: Sequence[Other], closing: threading.Event, threads: int) -> None:
    closing.set()
    for other in others:
        other.connection.close()
    until = time.monotonic() + END_SECONDS
    for other in others:
        other.end(until - time.monotonic())
    with suppress(RuntimeError):  # of a group of which a rank is gone
        parted()
    torch.set_num_threads(threads)
