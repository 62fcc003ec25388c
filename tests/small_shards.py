"""Small jobs as work to divide, and a board that random events have passed over."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from small_jobs import Jobs, cost_of, jobs, mixed_job, tree_of

from batchpipe.planner.order import Order, Ordering
from batchpipe.planner.shards.board import Board, begin, died, failed, finished, joined
from batchpipe.planner.shards.cut import Shard
from batchpipe.planner.shards.steal import next_shard
from batchpipe.planner.shards.work import Work, measured

every_job = st.one_of(
    jobs.filter(bool), st.integers(0, 9999).map(lambda seed: mixed_job(seed, 1 + seed % 60))
)


def work_for(job: Jobs, seed: int = 0) -> Work:
    """The job's work, with its prompts admitted in some order."""
    lengths = np.array([len(row) for row, _ in job], dtype=np.int64)
    answers = np.array([answer for _, answer in job], dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(job)).astype(np.int32)
    return measured(Ordering(tree_of(job), lengths, answers, cost_of(job)), Order(order))


def grove(trees: int, prefix_tokens: int, prompts: int, tail_tokens: int = 50) -> Jobs:
    """So many trees, each a prefix with prompts below it, and answers of one token."""
    numbers = iter(range(10**9))
    job = []
    for _ in range(trees):
        prefix = [next(numbers) for _ in range(prefix_tokens)]
        job += [
            ([*prefix, *[next(numbers) for _ in range(tail_tokens)]], 1) for _ in range(prompts)
        ]
    return job


def shards_on(board: Board) -> list[Shard]:
    """Every shard wherever it is."""
    held = [shard for state in board.workers for shard in (*state.waiting, *state.begun)]
    return [*held, *board.returned, *board.done, *board.given_up]


def after_event(board: Board, choice: int, worker: int, seconds: float) -> Board:
    """What the board is after the event of this choice, later by so much."""
    board = board.at(board.now_seconds + seconds)
    begun = board.workers[worker].begun
    if choice == 0 and begun:
        return failed(board, worker, begun[0])
    if choice == 1:
        return died(board, worker)
    if choice == 2:
        return joined(board, worker)
    if choice == 3 and begun:
        return finished(board, worker, begun[-1])
    taken = next_shard(board, worker)
    return board if taken is None else begin(board, taken)
