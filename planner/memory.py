"""How much KV will the running set need at its worst moment?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from batchpipe.planner.kv_ledger import BLOCK_TOKENS

Counts = npt.NDArray[np.int64]


def peak_blocks(held_tokens: Counts, remaining_tokens: Counts) -> int:
    """The most blocks that these sequences' own tails will ever hold together.

    Past-Future (LightLLM), paged: with ``l_1 >= l_2 >= ...`` the peak is
    ``max_k sum_{i<=k} ceil((s_i + l_k) / b)``; term k is the moment at which sequence k ends, when
    the k longest-lived are alive and each has grown by ``l_k``. Shared nodes are counted apart.

    Args:
        held_tokens: tokens of each sequence's own tail now  # [sequences]
        remaining_tokens: tokens each is still to produce  # [sequences]
    """
    if not len(held_tokens):
        return 0
    longest_first = np.argsort(-remaining_tokens, kind="stable")
    held, remaining = held_tokens[longest_first], remaining_tokens[longest_first]
    # Equal remaining lengths end together, so only the last of each run of equals can be the peak.
    last_of_run = np.flatnonzero(np.append(remaining[1:] != remaining[:-1], True))
    peak = 0
    for k in last_of_run.tolist():
        blocks = -(-(held[: k + 1] + remaining[k]) // BLOCK_TOKENS)
        peak = max(peak, int(blocks.sum()))
    return peak
