"""Prompts come back as they came, from memory and from a mapped file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from harness import files_of_at_most
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.job import token_store
from batchpipe.job.token_store import TokenStore
from batchpipe.planner.request import Prompts

lists_of_prompts = st.lists(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=4))


@given(lists_of_prompts, st.sampled_from([0, 16, 1 << 20]))
def test_prompts_come_back_in_order(pieces: list[list[list[int]]], in_memory_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "IN_MEMORY_BYTES", in_memory_bytes)
        with closing(TokenStore()) as store:
            for piece in pieces:
                store.append(Prompts.pack(piece))
            prompts = store.prompts()
    assert [ids.tolist() for ids in prompts] == [ids for piece in pieces for ids in piece]
    assert type(prompts.token_ids) is np.ndarray


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "IN_MEMORY_BYTES", 0)
    with closing(TokenStore(str(tmp_path))) as store:
        store.append(Prompts.pack([[1, 2, 3]]))
        assert list(tmp_path.iterdir()) == []
        prompts = store.prompts()
    assert prompts[0].tolist() == [1, 2, 3]


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "IN_MEMORY_BYTES", 0)
    full = pytest.raises(OSError, match="File too large")
    with closing(TokenStore(str(tmp_path))) as store, files_of_at_most(100), full:
        store.append(Prompts.pack([list(range(100_000))]))
