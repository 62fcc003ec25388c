"""What divides a job over workers without knowing what prompts cost: the rivals of `divide`."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from batchpipe.planner.plan import Plan
from batchpipe.planner.shards.work import Work

HASHED_TOKENS = 256  # of a prompt: what routers in front of engines look at
WorkerOfRank = npt.NDArray[np.int64]


def round_robin(plan: Plan, workers: int) -> WorkerOfRank:
    """The requests as they came, one to each worker in turn."""
    return plan.tree.order.astype(np.int64) % workers


def hash_beginning(plan: Plan, workers: int) -> WorkerOfRank:
    """By a hash of the prompt's first tokens."""
    rows = (plan.prompts[prompt][:HASHED_TOKENS] for prompt in plan.tree.order.tolist())
    return np.array([zlib.crc32(row.tobytes()) % workers for row in rows], dtype=np.int64)


def hash_prefix(plan: Plan, workers: int) -> WorkerOfRank:
    """By a hash of all tokens that the prompt shares with another, or of all that it has."""
    shared = plan.tree.tail_start.tolist()
    rows = (
        plan.prompts[prompt][: tokens or None]
        for prompt, tokens in zip(plan.tree.order.tolist(), shared, strict=True)
    )
    return np.array([zlib.crc32(row.tobytes()) % workers for row in rows], dtype=np.int64)


def depth_first(plan: Plan, workers: int) -> WorkerOfRank:
    """Sorted, and cut into equal numbers of prompts."""
    return np.arange(len(plan.prompts)) * workers // len(plan.prompts)


ROUTERS: dict[str, Callable[[Plan, int], WorkerOfRank]] = {
    "round robin": round_robin,
    f"hash of {HASHED_TOKENS}": hash_beginning,
    "hash of prefix": hash_prefix,
    "dfs, equal counts": depth_first,
}


def routed(work: Work, worker_of: WorkerOfRank, workers: int) -> tuple[list[float], int]:
    """Seconds of each worker, and prompt tokens that are computed more than once.

    As kind as can be: a worker computes each node that it needs once, whatever its memory.
    """
    tree = work.tree
    seconds, tokens = [], 0
    node_tokens = (tree.end - tree.start).astype(np.int64)
    tail_tokens, tail_seconds = np.diff(work.tokens.alone), np.diff(work.seconds.alone)
    for worker in range(workers):
        mine = worker_of == worker
        before = np.append(0, np.cumsum(mine))
        needed = before[tree.last] > before[tree.first]
        seconds.append(float(tail_seconds[mine].sum() + work.node_seconds[needed].sum()))
        tokens += int(tail_tokens[mine].sum() + node_tokens[needed].sum())
    return seconds, tokens - tree.computed_tokens
