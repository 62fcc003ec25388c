"""The seed that another engine draws an answer from: the same in every session of a run."""

from __future__ import annotations

import json
from hashlib import blake2b

from batchpipe.planner.request import Sampling


def seed_of(sampling: Sampling, *, run_seed: int, request_id: str, sample: int) -> int | None:
    """The row's own seed, else one from (run seed, request id); None for a greedy answer.

    The samples of one row draw from different ones, the first of them from the row's own.
    """
    if sampling.temperature == 0:
        return None
    if sampling.seed is not None and sample == 0:
        return sampling.seed
    named = [run_seed, request_id] if sampling.seed is None else [sampling.seed]
    digest = blake2b(json.dumps([*named, sample]).encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1  # 31 bits: some servers have no more
