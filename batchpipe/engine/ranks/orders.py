"""What rank 0 tells the others to do, and what they say. All of it goes as bytes through a pipe."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Literal

import torch
from torch import Tensor

from batchpipe.engine.token_batch import TokenBatch
from batchpipe.planner.machine.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Meet:
    """Find the other ranks on this machine."""

    ranks: int
    port: int  # of the loopback, where rank 0 waits
    device: str  # its kind
    threads: int  # on a CPU


@dataclass(frozen=True, slots=True)
class Load:
    """Load a slice of this model and check it."""

    name: str
    shape: ModelShape  # of the slice
    dtype: str
    revision: str | None
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class Free:
    """Give back the KV, and say how many bytes the device then has left for it."""


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind the slice to so many blocks of fresh KV, and say how many it has: none without room."""

    blocks: int


@dataclass(frozen=True, slots=True, eq=False)
class Logits:
    """Compute the scores of this batch."""

    batch: TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """Get ready to compute the scores of this batch, at most so many at once."""

    batch: TokenBatch
    most: int


@dataclass(frozen=True, slots=True)
class NextSlice:
    """Compute the next of them."""


@dataclass(frozen=True, slots=True)
class Unbind:
    """Give back the KV."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Give back the slice itself."""


Order = Meet | Load | Free | Bind | Unbind | Drop | Logits | Slices | NextSlice


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """An order, and the model that it is about."""

    model: int
    order: Order


@dataclass(frozen=True, slots=True)
class Done:
    """The order is carried out; what was asked for, if anything was."""

    answer: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The last word of a rank: it could not carry out the order."""

    why: str
    kind: Literal["memory", "setting", "fault"] = "fault"


def packed(message: Told | Done | Failed) -> bytes:
    """The message for a pipe. Who draws behind a batch's tokens is rank 0's affair alone."""
    if isinstance(message, Told) and isinstance(message.order, (Logits, Slices)):
        batch = replace(message.order.batch, sequences=())
        message = replace(message, order=replace(message.order, batch=batch))
    stream = BytesIO()
    _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(message)
    return stream.getvalue()


def unpacked(content: bytes, device: torch.device) -> Any:  # Told | Done | Failed
    """The message, its tensors on the device."""
    return _Unpickler(BytesIO(content), device).load()


class _Pickler(pickle.Pickler):
    """Tensors go as arrays: torch's own way takes five times as long for small ones."""

    def persistent_id(self, value: Any) -> Any:
        return value.numpy(force=True) if isinstance(value, Tensor) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BytesIO, device: torch.device) -> None:
        super().__init__(stream)
        self._device = device

    def persistent_load(self, array: Any) -> Tensor:
        return torch.from_numpy(array.copy()).to(self._device, non_blocking=True)
