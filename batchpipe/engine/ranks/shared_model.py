"""A model over several devices, as rank 0 has it: its own slice, and the ranks with the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from batchpipe.engine.faults import is_out_of_memory
from batchpipe.engine.model import Decoder, bind
from batchpipe.engine.ranks.meeting import being_rank_0
from batchpipe.engine.ranks.orders import Bind, Free, Load
from batchpipe.engine.ranks.others import OtherRanks
from batchpipe.engine.ranks.slice import load_slice, rank_device, slice_shape
from batchpipe.errors import OutOfMemory
from batchpipe.planner.machine.model_shape import ModelShape


class SharedModel:
    """A loaded model of which each rank has a slice. With its last reference the ranks end."""

    def __init__(self, model: Any, shape: ModelShape, others: OtherRanks) -> None:
        self._model, self._shape, self._others = model, shape, others

    def bind(self, blocks: int) -> Decoder:
        """The model with its attention bound to so many blocks of fresh KV, on every rank.

        Raises:
            MemoryError: one of the devices has no room for them
            DeviceLost: a rank has ended
        """
        self._others.tell(Bind(blocks))
        decoder = None
        try:
            decoder = bind(self._model, self._shape, blocks)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not all(done.answer for done in self._others.hear()) or decoder is None:
            raise MemoryError
        return replace(decoder, others=self._others)

    def free_bytes(self) -> int:
        """Bytes that are left on all devices together: as many on each as on the fullest."""
        self._others.tell(Free())
        own = torch.cuda.mem_get_info(self._model.device)[0]
        least = min(own, *(done.answer for done in self._others.hear()))
        return least * self._others.ranks


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
    with being_rank_0(ranks):
        others = OtherRanks(ranks, own, max(1, torch.get_num_threads() // ranks))
        try:
            with others.together(load):
                model = load_slice(load, config, own, ranks)
            others.hear()
        except OutOfMemory as error:
            raise MemoryError(str(error)) from error
    return SharedModel(model, load.shape, others)
