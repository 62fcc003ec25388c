"""A rank but the first, as a process: ``python -m batchpipe.engine.ranks.rank DESCRIPTOR``.

It does what rank 0 tells it through the pipe, in that order, and ends with the pipe's other end,
whatever it is doing then.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from batchpipe.engine.device_memory import return_device_memory
from batchpipe.engine.faults import first_line, is_out_of_memory
from batchpipe.engine.host_memory import return_freed_memory
from batchpipe.engine.model import Decoder, bind
from batchpipe.engine.ranks.meeting import joined, met
from batchpipe.engine.ranks.orders import (
    Bind,
    Done,
    Drop,
    Failed,
    Free,
    Load,
    Logits,
    Meet,
    NextSlice,
    Slices,
    Told,
    Unbind,
    packed,
    unpacked,
)
from batchpipe.engine.ranks.slice import load_slice, rank_device
from batchpipe.errors import ConfigError


class Slice:
    """One model's, and what is computed with it."""

    def __init__(self, load: Load, device: torch.device, ranks: int) -> None:
        config = AutoConfig.from_pretrained(
            load.name, revision=load.revision, trust_remote_code=load.trust_remote_code
        )
        self._shape = load.shape
        self._model = load_slice(load, config, device, ranks)
        self._decoder: Decoder | None = None
        self._scores: Iterator[Tensor] = iter(())

    def do(self, order: Any) -> Done | None:
        """The order is carried out; what there is to say of it."""
        match order:
            case Logits(batch):
                self._bound.logits(batch)
                return None
            case Slices(batch, most):
                self._scores = self._bound.some_logits(batch, most)
                return None
            case NextSlice():
                next(self._scores)
                return None
            case Unbind():
                self.unbind()
                return None
            case Free():
                self.unbind()
                return Done(torch.cuda.mem_get_info(self._model.device)[0])
            case Bind(blocks):
                return Done(blocks if self._bind(blocks) else 0)
        raise AssertionError(f"no rank knows the order {order}")

    def unbind(self) -> None:
        """Its KV is gone from memory."""
        self._decoder, self._scores = None, iter(())
        return_memory()

    @property
    def _bound(self) -> Decoder:
        assert self._decoder is not None, "the slice is bound to KV"
        return self._decoder

    def _bind(self, blocks: int) -> bool:
        self.unbind()
        try:
            self._decoder = bind(self._model, self._shape, blocks)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return self._decoder is not None


class Rank:
    """A slice of every model that rank 0 has told it to load, by the model's number."""

    def __init__(self, rank: int) -> None:
        self.device = torch.device("cpu")
        self._rank, self._ranks = rank, 1
        self._slices: dict[int, Slice] = {}

    def do(self, told: Told) -> Done | None:
        """The order is carried out; what there is to say of it."""
        match told.order:
            case Meet():
                self._meet(told.order)
                return None
            case Load():
                self._slices[told.model] = Slice(told.order, self.device, self._ranks)
                return Done()
            case Drop():
                self._slices.pop(told.model, None)  # it may not have come so far
                return_memory()
                return None
        return self._slices[told.model].do(told.order)

    def _meet(self, order: Meet) -> None:
        self._ranks = order.ranks
        self.device = rank_device(order.device, self._rank)
        torch.set_num_threads(order.threads)
        store = joined(order.ranks, order.port)
        met(self._rank, order.ranks, store, self.device)


def return_memory() -> None:
    """What nobody holds any more is free for others on this machine."""
    gc.collect()
    return_freed_memory()
    return_device_memory()


def follow(connection: Connection, rank: Rank) -> None:
    """Every order is carried out in turn, until one cannot be: its reason is the last word."""
    orders: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, orders), daemon=True).start()
    connection.send_bytes(packed(Done()))
    while True:
        try:
            word = rank.do(unpacked(orders.get(), rank.device))
        except Exception as error:  # rank 0 tells of it
            with suppress(OSError):  # it may be gone, and then this is why
                connection.send_bytes(packed(_last_word(error)))
            return
        if word is not None:
            connection.send_bytes(packed(word))


def _receive(connection: Connection, orders: SimpleQueue[bytes]) -> None:
    try:
        while True:
            orders.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(1)  # with what the main thread may wait for in vain: rank 0 is gone


def _last_word(error: Exception) -> Failed:
    if isinstance(error, ConfigError):
        return Failed(str(error), "setting")
    why = f"{type(error).__name__}: {first_line(error)}"
    return Failed(why, "memory" if is_out_of_memory(error) else "fault")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # rank 0 gets it as well, and says what follows
    follow(Connection(int(sys.argv[1])), Rank(int(os.environ["RANK"])))
    os._exit(1)  # a group of which a rank has failed is not taken down in order
