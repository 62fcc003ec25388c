"""Expected answer lengths: exact where known, else from answers that became longer."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from batchpipe.planner.lengths import (
    FIRST_GUESS_TOKENS,
    GUESS_QUANTILE,
    RECENT_ANSWERS,
    OutputLengths,
)

UNLIMITED = 10**6

answers = st.lists(st.integers(1, 60), max_size=40)


def after(finished: list[int]) -> OutputLengths:
    lengths = OutputLengths()
    for length in finished:
        lengths.add(length)
    return lengths


@given(answers, st.integers(0, 80), st.integers(1, 100))
def test_exact_answer_has_what_its_limit_leaves(
    finished: list[int], produced: int, max_tokens: int
) -> None:
    expected = max(1, max_tokens - produced)
    assert after(finished).remaining(produced, max_tokens, exact=True) == expected


@given(answers, st.integers(0, 80), st.integers(1, 100))
def test_expectation_stays_within_the_limit(
    finished: list[int], produced: int, max_tokens: int
) -> None:
    expected = after(finished).remaining(produced, max_tokens, exact=False)
    assert 1 <= expected <= max(1, max_tokens - produced)


@given(answers, st.integers(0, 59))
def test_answer_is_compared_only_with_longer_ones(finished: list[int], produced: int) -> None:
    longer = sorted(length for length in finished if length > produced)
    if not longer:
        return
    expected = after(finished).remaining(produced, UNLIMITED, exact=False) + produced
    assert expected in longer
    # At the quantile: that share of the longer answers ended at or before it, and no more needed.
    place = math.floor(GUESS_QUANTILE * (len(longer) - 1))
    assert expected == longer[place]


@given(answers)
def test_expected_end_never_comes_nearer_while_an_answer_grows(finished: list[int]) -> None:
    lengths = after(finished)
    ends = [
        produced + lengths.remaining(produced, UNLIMITED, exact=False)
        for produced in range(max(finished, default=0))
    ]
    assert ends == sorted(ends)


def test_first_guess_stands_until_an_answer_is_longer() -> None:
    assert OutputLengths().remaining(0, UNLIMITED, exact=False) == FIRST_GUESS_TOKENS
    assert after([5, 9]).remaining(9, UNLIMITED, exact=False) == FIRST_GUESS_TOKENS
    assert after([5, 9]).remaining(8, UNLIMITED, exact=False) == 1


def test_answer_longer_than_all_before_is_expected_to_grow_by_half() -> None:
    produced = 4 * FIRST_GUESS_TOKENS
    assert after([7]).remaining(produced, UNLIMITED, exact=False) == produced // 2


def test_only_recent_answers_count() -> None:
    lengths = after([500] * RECENT_ANSWERS)
    assert lengths.remaining(0, UNLIMITED, exact=False) == 500
    for _ in range(RECENT_ANSWERS):
        lengths.add(3)
    assert lengths.remaining(0, UNLIMITED, exact=False) == 3
    assert lengths.remaining(3, UNLIMITED, exact=False) == FIRST_GUESS_TOKENS


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=RECENT_ANSWERS, max_size=RECENT_ANSWERS + 50))
def test_window_holds_the_last_answers_exactly(finished: list[int]) -> None:
    full, window = after(finished), after(finished[-RECENT_ANSWERS:])
    for produced in range(10):
        one, other = (each.remaining(produced, UNLIMITED, exact=False) for each in (full, window))
        assert one == other
