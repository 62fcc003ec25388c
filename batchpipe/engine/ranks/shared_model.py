"""A model over several devices, as rank 0 has it: its own slice, and the ranks with the others."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from batchpipe.engine.faults import is_out_of_memory
from batchpipe.engine.model import Decoder, bind
from batchpipe.engine.ranks.meeting import being_rank_0
from batchpipe.engine.ranks.orders import Bind, Free, Load, Order, Unbind
from batchpipe.engine.ranks.others import OtherRanks, others_here
from batchpipe.engine.ranks.slice import load_slice, rank_device, slice_shape
from batchpipe.engine.ranks.undisturbed import undisturbed
from batchpipe.errors import DeviceLost, OutOfMemory
from batchpipe.planner.machine.model_shape import ModelShape


class SharedModel:
    """A loaded model of which each rank has a slice, known there by its number.

    With its last reference its slices go, and with the last such model the ranks.
    """

    def __init__(self, model: Any, shape: ModelShape, others: OtherRanks, number: int) -> None:
        self._model, self._shape, self._others, self._number = model, shape, others, number
        weakref.finalize(self, others.drop, number).atexit = False

    def bind(self, blocks: int) -> Decoder:
        """The model with its attention bound to so many blocks of fresh KV, on every rank.

        Raises:
            MemoryError: one of the devices has no room for them
            DeviceLost: a rank has ended
        """
        decoder = None
        with self._others.lock:
            self.tell(Bind(blocks))
            try:
                decoder = bind(self._model, self._shape, blocks)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            done = self._others.hear()
        if not all(each.answer for each in done) or decoder is None:
            raise MemoryError
        return replace(decoder, others=self)

    def free_bytes(self) -> int:
        """Bytes that are left on all devices together: as many on each as on the fullest."""
        with self._others.lock:
            self.tell(Free())
            own = torch.cuda.mem_get_info(self._model.device)[0]
            least = min(own, *(done.answer for done in self._others.hear()))
        return least * self._others.ranks

    def tell(self, order: Order) -> None:
        """The other ranks will carry it out with their slices of this model.

        Raises:
            DeviceLost: one has ended
        """
        with self._others.lock:
            self._others.tell(self._number, order)

    @contextmanager
    def together(self, order: Order) -> Iterator[None]:
        """They carry it out while this process does the same within, and nothing stops it amid.

        Raises:
            OutOfMemory: one has no memory for it
            DeviceLost: one has ended
        """
        with undisturbed(), self._others.together(self._number, order):
            yield

    def unbind(self) -> None:
        """No rank but this one has KV for it; nothing where they have ended."""
        with suppress(DeviceLost):
            self.tell(Unbind())


def load_shared(
    name: str,
    config: Any,
    shape: ModelShape,
    *,
    dtype: str,
    device: str,  # its kind
    ranks: int,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> SharedModel:
    """The model over so many devices of this machine, checked against its own attention.

    Raises:
        ConfigError: it cannot be loaded, or not be divided so
        MemoryError: a device has no room for its slice
        DeviceLost: a rank has ended
    """
    load = Load(name, slice_shape(shape, ranks), dtype, revision, trust_remote_code)
    own = rank_device(device, 0)
    others = others_here(ranks, own)
    try:
        if not others.are_new:
            with suppress(DeviceLost):  # since when, nobody had noticed
                return _loaded(load, config, others, own)
            others = others_here(ranks, own)
        return _loaded(load, config, others, own)
    except OutOfMemory as error:
        raise MemoryError(str(error)) from error


def _loaded(load: Load, config: Any, others: OtherRanks, own: torch.device) -> SharedModel:
    number, others.are_new = next(others.numbers), False
    with others.lock, being_rank_0(others.ranks):
        with others.together(number, load):
            model = load_slice(load, config, own, others.ranks)
        others.hear()
    return SharedModel(model, load.shape, others, number)
