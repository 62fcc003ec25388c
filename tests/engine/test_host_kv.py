"""KV goes to host memory and comes back as it was, however the slots lie on either side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.engine import host_kv
from batchpipe.engine.host_kv import HostKV, host_bytes_per_second
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.schedule.host_memory import Move

LAYERS, HEADS, HEAD_DIM = 3, 2, 4
TOKEN_BYTES = 2 * LAYERS * HEADS * HEAD_DIM * 4


def attention(slots: int, dtype: torch.dtype = torch.float32) -> Any:
    """As much of a `PagedAttention` as is copied."""
    shape = (LAYERS, slots, HEADS, HEAD_DIM)
    drawn = torch.Generator().manual_seed(slots)
    keys, values = (torch.randn(shape, generator=drawn).to(dtype) for _ in range(2))
    return SimpleNamespace(keys=keys, values=values)


@given(
    st.permutations(range(64)), st.permutations(range(48)), st.integers(1, 48),
    st.integers(1, 60), st.integers(1, 60),
)  # fmt: skip
def test_what_comes_back_is_what_went(
    device: list[int], host: list[int], tokens: int, stage_tokens: int, part_tokens: int
) -> None:
    cache = attention(64)
    kept = HostKV(cache, 48 // BLOCK_TOKENS)
    kept._most_tokens, kept._part_tokens = stage_tokens, part_tokens
    before = cache.keys.clone(), cache.values.clone()
    some, there = np.array(device[:tokens]), np.array(host[:tokens])
    kept.make([Move(some, there, out=True)])
    assert torch.equal(cache.keys, before[0])
    cache.keys.zero_()
    cache.values.zero_()
    elsewhere = np.array(device[-tokens:])
    kept.make([Move(elsewhere, there, out=False)])
    assert torch.equal(cache.keys[:, elsewhere], before[0][:, some])
    assert torch.equal(cache.values[:, elsewhere], before[1][:, some])
    rest = np.setdiff1d(np.arange(64), elsewhere)
    assert not cache.keys[:, rest].any()


def test_moves_are_made_in_their_order() -> None:
    cache = attention(32)
    kept = HostKV(cache, 1)
    first, second = cache.keys[:, :16].clone(), cache.keys[:, 16:].clone()
    low, high, host = np.arange(16), np.arange(16, 32), np.arange(16)
    kept.make(
        [
            Move(low, host, out=True),
            Move(high, host, out=False),  # the host's block is free again, and taken for
            Move(low, host, out=True),
        ]
    )
    assert torch.equal(cache.keys[:, :16], first)
    assert torch.equal(cache.keys[:, 16:], first)
    assert not torch.equal(first, second)


def test_memory_is_taken_when_it_is_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_kv, "PART_BYTES", 32 * TOKEN_BYTES)
    kept = HostKV(attention(64, torch.float32), 1000)
    assert kept.nbytes == 1000 * BLOCK_TOKENS * TOKEN_BYTES
    assert not kept._parts
    kept.make([Move(np.arange(8), np.arange(28, 36), out=True)])
    assert sorted(kept._parts) == [0, 1]


def test_a_stage_for_which_the_device_has_no_room_is_made_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = attention(64)
    kept, room, real = HostKV(cache, 4), 10, HostKV._stage

    def short(self: HostKV, tokens: int) -> torch.Tensor:
        if tokens > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, tokens)

    monkeypatch.setattr(HostKV, "_stage", short)
    before = cache.values.clone()
    slots = np.arange(64)
    kept.make([Move(slots, slots, out=True)])
    cache.values.zero_()
    kept.make([Move(slots, slots, out=False)])
    assert torch.equal(cache.values, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_link_is_measured_and_leaves_the_kv_as_it_is(dtype: torch.dtype) -> None:
    cache = attention(512, dtype)
    before = cache.keys.clone()
    assert host_bytes_per_second(cache) > 0
    assert torch.equal(cache.keys, before)
