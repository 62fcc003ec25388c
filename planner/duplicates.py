"""Rows that must get the same answer are asked once, and every row is told who answers it.

Knows token ids and sampling only; two rows with the same tokens but an own draw each stay two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from batchpipe.planner.request import Prompts, Sampling

DIGEST_BYTES = 16  # two of a billion rows meet by chance with probability 1e-21


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """Which prompts are asked, and which of them answers each row.

    Row ``i`` gets the answer of prompt ``kept[answered_by[i]]``, the first row that equals it.
    """

    kept: npt.NDArray[np.int32]  # [distinct] prompt indices in input order
    answered_by: npt.NDArray[np.int32]  # [prompts] indices into kept


def collapse(prompts: Prompts, samplings: Sequence[Sampling]) -> Duplicates:
    """Rows equal in token ids and in deterministic sampling have one answer among them.

    A sampled row without an own seed draws its own answer, so it always stays.
    """
    assert len(prompts) == len(samplings), f"{len(prompts)} prompts, {len(samplings)} samplings"
    answered_by = np.empty(len(prompts), dtype=np.int32)
    kept: list[int] = []
    place_of_key: dict[bytes, int] = {}
    salt_of_sampling: dict[Sampling, bytes] = {}
    token_bytes = np.ascontiguousarray(prompts.token_ids).view(np.uint8).data
    first_byte = (prompts.starts * prompts.token_ids.itemsize).data
    end_byte = (prompts.ends * prompts.token_ids.itemsize).data
    for row, sampling in enumerate(samplings):
        place = len(kept)
        if sampling.deterministic:
            salt = salt_of_sampling.get(sampling)
            if salt is None:
                # Salted by its sampling, a row's digest stands for both: one small key per row.
                salt = len(salt_of_sampling).to_bytes(blake2b.SALT_SIZE, "little")
                salt_of_sampling[sampling] = salt
            row_bytes = token_bytes[first_byte[row] : end_byte[row]]
            key = blake2b(row_bytes, digest_size=DIGEST_BYTES, salt=salt).digest()
            place = place_of_key.setdefault(key, place)
        if place == len(kept):
            kept.append(row)
        answered_by[row] = place
    return Duplicates(np.array(kept, dtype=np.int32), answered_by)
