"""Masks of tokens, a bit each in words of 32, as xgrammar has them. Knows no grammar."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

# A mask is short that allows less than this part of the tokens. xgrammar's own loop takes its time
# for each token that is not allowed, 30 us for a row of 8,192 short ones; `apply_short_masks` takes
# 8 us (AMD EPYC, one thread).
SHORT = 1 / 8


def mask_of(token_ids: Collection[int], vocab: int) -> Tensor:  # [1, vocab / 32] int32
    """The mask that allows these tokens alone."""
    bits = np.zeros((vocab + 31) // 32 * 32, dtype=np.uint8)
    bits[list(token_ids)] = 1
    words = np.packbits(bits, bitorder="little").view("<i4").astype(np.int32)
    return torch.from_numpy(words)[None]


@torch.inference_mode()
def apply_short_masks(
    masks: Tensor,  # [rows, vocab / 32] int32, on the CPU
    logits: Tensor,  # [rows, vocab], on the CPU
    rows: Sequence[int],
) -> list[int]:
    """In those of these rows that have a short mask, what it does not allow has a score of -inf.

    Returns:
        The others of these rows, which are as they were.
    """
    words = masks.numpy()[rows]
    vocab = logits.shape[1]
    is_short = np.bitwise_count(words.view(np.uint32)).sum(axis=1) < SHORT * vocab
    octets = np.invert(words[is_short]).astype("<i4", copy=False).view(np.uint8)
    forbidden = np.unpackbits(octets, axis=1, count=vocab, bitorder="little")
    places = np.asarray(rows)
    short = places[is_short].tolist()
    for row, tokens in zip(short, torch.from_numpy(forbidden.view(np.bool_)), strict=True):
        logits[row].masked_fill_(tokens, float("-inf"))
    others: list[int] = places[~is_short].tolist()
    return others
