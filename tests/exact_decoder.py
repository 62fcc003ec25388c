"""A decoder without rounding: its scores are a function of the tokens that a query can read.

Two runs of a real model round differently and near ties fall differently. Here they cannot, so that
every token of every drawn job can be held against another run. What it reads it reads as the
kernels' specification does, from slots: a key in the wrong place, or of a wrong guess, is another
token.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from batchpipe.engine.token_batch import TokenBatch
from batchpipe.planner.kv_ledger import BLOCK_TOKENS

VOCAB = 24
_STATES = 41  # fewer than pairs of tokens: answers soon repeat themselves


class ExactDecoder:
    """Takes the place of a `Decoder` in an engine.

    Scores follow the last two tokens, so that texts repeat themselves, and a little the sum of all,
    so that they stop doing so. ``most_tokens`` is what memory has room for.
    """

    def __init__(self, kv_blocks: int, most_tokens: int | None = None) -> None:
        self.device = torch.device("cpu")
        self.attention = SimpleNamespace(batch=None)
        self._most_tokens = most_tokens
        self._memory = np.full(kv_blocks * BLOCK_TOKENS, -1)
        generator = np.random.default_rng(0)
        self._scores = generator.normal(0, 3, (_STATES, VOCAB)).astype(np.float32)
        self._nudges = generator.normal(0, 1, (5, VOCAB)).astype(np.float32)

    def logits(self, batch: TokenBatch) -> Tensor:  # [draws, VOCAB]
        """The scores behind every drawing token, and all tokens in their slots."""
        layout = batch.layout
        self._memory[layout.write_slots.numpy()] = batch.input_ids.numpy()
        if self._most_tokens is not None and len(batch.input_ids) > self._most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        rows = [self._row(batch, query) for query in batch.sampled.tolist()]
        return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, VOCAB))

    def close(self) -> None:
        """Nothing has to be given back."""

    def _row(self, batch: TokenBatch, query: int) -> np.ndarray:
        last = int(batch.layout.positions[query])
        context: dict[int, int] = {}
        for read in batch.layout.reads():
            if read.query_start <= query < read.query_end:
                for position, slot in enumerate(read.slots.tolist(), start=read.position):
                    if position <= last:
                        assert position not in context, f"position {position} is read twice"
                        context[position] = int(self._memory[slot])
        assert sorted(context) == list(range(last + 1)), "a query must read all before it"
        pair = 31 * context.get(last - 1, 0) + context[last]
        return self._scores[pair % _STATES] + self._nudges[sum(context.values()) % 5]
