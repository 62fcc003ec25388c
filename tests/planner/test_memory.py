"""The forecast of the peak against every token counted as it is produced."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, blocks_for
from batchpipe.planner.memory import peak_blocks

Tails = list[tuple[int, int]]  # tokens held now, tokens still to produce

tails = st.lists(
    st.tuples(st.integers(0, 4 * BLOCK_TOKENS), st.integers(1, 3 * BLOCK_TOKENS)), max_size=9
)


def peak_step_by_step(tails: Tails) -> int:
    """Every sequence grows by a token a step and leaves after its last; the most blocks at once."""
    running, peak = list(tails), 0
    while running:
        peak = max(peak, sum(blocks_for(held) for held, _ in running))
        grown = [(held + 1, left - 1) for held, left in running]
        peak = max(peak, sum(blocks_for(held) for held, _ in grown))  # before those at 0 leave
        running = [tail for tail in grown if tail[1]]
    return peak


def forecast(tails: Tails) -> int:
    held, remaining = (np.array([tail[part] for tail in tails], dtype=np.int64) for part in (0, 1))
    return peak_blocks(held, remaining)


@given(tails)
@example([(0, 1)])
@example([(15, 1), (15, 1), (16, 40)])
def test_peak_is_that_of_a_step_by_step_count(tails: Tails) -> None:
    assert forecast(tails) == peak_step_by_step(tails)


@given(tails, st.randoms(use_true_random=False))
def test_peak_does_not_depend_on_the_order_of_sequences(tails: Tails, random: object) -> None:
    shuffled = list(tails)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert forecast(shuffled) == forecast(tails)


@given(tails, st.integers(0, 8))
def test_shorter_answers_never_need_more(tails: Tails, fewer: int) -> None:
    shorter = [(held, max(1, left - fewer)) for held, left in tails]
    assert forecast(shorter) <= forecast(tails)


def test_nothing_running_needs_nothing() -> None:
    assert forecast([]) == 0


def test_sequences_that_end_in_turn_never_stand_at_their_ends_together() -> None:
    tails = [(BLOCK_TOKENS * 4, 1), (0, BLOCK_TOKENS * 4)]
    assert forecast(tails) == 6  # 5 and 1 together, not 5 and 4
