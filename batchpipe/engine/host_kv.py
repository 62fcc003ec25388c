"""Host memory to which KV goes when others need its place on the device, and from which it returns.

Copies are queued behind the computing on the device: one that is made after a step reads what that
step has stored, and the next step reads what came back. So nobody waits for them here.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchpipe.engine.attention import PagedAttention
from batchpipe.engine.faults import is_out_of_memory
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.schedule.host_memory import Move
from batchpipe.planner.schedule.segment import Slots

# Copied at once: on a GPU within the room for activations; on a CPU what its caches hold, which is
# four times as fast as 32 MiB (one busy EPYC core: 5.6 GB/s in float32, 4.3 in bfloat16).
STAGE_BYTES = {"cuda": 32 * 2**20, "cpu": 4 * 2**20}
MEASURED_BYTES = 64 * 2**20  # copied there and back to measure the link
PART_BYTES = 256 * 2**20  # allocated and pinned at once, some 0.1 s of it
PORTABLE = 1  # cudaHostRegisterPortable


class HostKV:
    """So many blocks of KV in host memory, pinned where the device is a GPU.

    The keys and values of a token lie together, those of all its layers: what the host's ledger
    gives in consecutive blocks is one copy. Memory is taken part by part, when KV first comes
    there: most plans need little of it, and pinning takes time.
    """

    def __init__(self, attention: PagedAttention, blocks: int) -> None:
        layers, _, kv_heads, head_dim = attention.keys.shape
        self.blocks = blocks
        self._attention = attention
        self._on_gpu = attention.keys.device.type == "cuda"
        self._token_shape = (2, layers, kv_heads, head_dim)
        token_bytes = 2 * attention.keys[:, 0].nbytes
        self.nbytes = blocks * BLOCK_TOKENS * token_bytes
        stage_bytes = STAGE_BYTES["cuda" if self._on_gpu else "cpu"]
        self._most_tokens = max(1, stage_bytes // token_bytes)  # of one stage
        self._part_tokens = max(1, PART_BYTES // token_bytes)
        self._parts: dict[int, Tensor] = {}  # by number  # [tokens, 2, layers, kv_heads, head_dim]

    def make(self, moves: Iterable[Move]) -> None:
        """The moves are made, or queued on the device, in their order."""
        with torch.inference_mode():
            for move in moves:
                start = 0
                while start < len(move.host):
                    end = min(start + self._most_tokens, len(move.host))
                    if self._made(move.device[start:end], move.host[start:end], out=move.out):
                        start = end

    def _made(self, device: Slots, host: Slots, *, out: bool) -> bool:
        """False where the device had no room for a stage; the next is smaller."""
        try:
            self._copy_out(device, host) if out else self._copy_back(device, host)
        except (MemoryError, RuntimeError) as error:
            if len(host) == 1 or not is_out_of_memory(error):
                raise
        else:
            return True
        self._most_tokens = len(host) // 2
        gc.collect()
        if self._on_gpu:
            torch.cuda.empty_cache()
        return False

    def _copy_out(self, device: Slots, host: Slots) -> None:
        rows, stage = self._rows(device), self._stage(len(host))
        for part, cache in enumerate((self._attention.keys, self._attention.values)):
            stage[:, part] = cache.index_select(1, rows).transpose(0, 1)
        for place, kept in self._runs(host):
            kept.copy_(stage[place], non_blocking=True)

    def _copy_back(self, device: Slots, host: Slots) -> None:
        rows, stage = self._rows(device), self._stage(len(host))
        for place, kept in self._runs(host):
            stage[place].copy_(kept, non_blocking=True)
        for part, cache in enumerate((self._attention.keys, self._attention.values)):
            cache.index_copy_(1, rows, stage[:, part].transpose(0, 1))

    def _rows(self, slots: Slots) -> Tensor:  # [tokens]
        return torch.from_numpy(slots).to(self._attention.keys.device)

    def _stage(self, tokens: int) -> Tensor:  # [tokens, 2, layers, kv_heads, head_dim]
        return self._attention.keys.new_empty((tokens, *self._token_shape))

    def _runs(self, slots: Slots) -> Iterator[tuple[slice, Tensor]]:
        """Where consecutive slots of one part stand among these, and the memory of each run."""
        apart = (np.diff(slots) != 1) | (slots[1:] % self._part_tokens == 0)
        for start, end in pairwise((0, *(np.flatnonzero(apart) + 1).tolist(), len(slots))):
            number, first = divmod(int(slots[start]), self._part_tokens)
            yield slice(start, end), self._part(number)[first : first + end - start]

    def _part(self, number: int) -> Tensor:  # [tokens, 2, layers, kv_heads, head_dim]
        if number not in self._parts:
            left = self.blocks * BLOCK_TOKENS - number * self._part_tokens
            tokens = min(self._part_tokens, left)
            part = torch.empty((tokens, *self._token_shape), dtype=self._attention.keys.dtype)
            if self._on_gpu and _pinned(part, self._attention.keys.device):
                weakref.finalize(self, _unpin, part.data_ptr()).atexit = False
            self._parts[number] = part
        return self._parts[number]


def host_bytes_per_second(attention: PagedAttention) -> float:
    """At which KV goes to the host and back, the copies on the device included: the best of a few.

    The KV that the attention holds stays as it is.
    """
    slot_bytes = 2 * attention.keys[:, 0].nbytes
    most = min(attention.keys.shape[1], max(BLOCK_TOKENS, MEASURED_BYTES // slot_bytes))
    blocks = max(1, most // BLOCK_TOKENS)
    host = HostKV(attention, blocks)
    slots = np.arange(blocks * BLOCK_TOKENS)
    moves = (Move(slots, slots, out=True), Move(slots, slots, out=False))
    fastest = np.inf
    for _ in range(4):  # the first touches the memory
        began = time.perf_counter()
        host.make(moves)
        if attention.keys.device.type == "cuda":
            torch.cuda.synchronize(attention.keys.device)
        fastest = min(fastest, time.perf_counter() - began)
    return len(moves) * len(slots) * slot_bytes / fastest


def _pinned(tensor: Tensor, device: torch.device) -> bool:
    """The GPU copies to and from the tensor by itself; where it may not, copies are slower.

    torch's own pinned memory comes in powers of two, and stays with the process.
    """
    if not int(_runtime().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, PORTABLE)):
        return True
    with suppress(RuntimeError):  # the next kernel would be blamed for the refusal
        torch.zeros(1, device=device)
    return False


def _unpin(address: int) -> None:
    torch.cuda.synchronize()  # a copy may still be under way
    _runtime().cudaHostUnregister(address)


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
