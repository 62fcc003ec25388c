"""Prompt lookup against a search of the whole text, and what of the drawn tokens counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.engine.drafting import SEARCHED_TOKENS, PromptLookup, kept
from batchpipe.planner.request import Prompts
from batchpipe.planner.schedule.segment import Draft, Segment, Sequence
from batchpipe.planner.schedule.speculation import Guess

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def sequence_of(prompt: list[int], index: int = 0) -> Sequence:
    return Sequence(index, len(prompt), Segment(-1, 0, index, np.array(prompt, dtype=np.int32)))


def searched(text: list[int], most: int) -> Guess | None:
    """What followed the last place of the longest run, up to three tokens, that ends the text."""
    for matched in (3, 2, 1):
        for place in range(len(text) - 1, matched - 1, -1):
            if text[place - matched : place] == text[-matched:]:
                going_on = list(text)
                while len(going_on) < len(text) + most:  # the same distance back, on and on
                    going_on.append(going_on[place - len(text)])
                return Guess(tuple(going_on[len(text) :]), matched)
    return None


@given(tokens, st.lists(tokens, max_size=5), st.integers(1, 12))
def test_lookup_finds_what_a_search_finds(
    prompt: list[int], grown: list[list[int]], most: int
) -> None:
    lookup, sequence = PromptLookup(Prompts.pack([prompt])), sequence_of(prompt)
    assert lookup.guess(sequence, most) == searched(prompt, most)
    for more in grown:
        sequence.answer.extend(more)
        assert lookup.guess(sequence, most) == searched(prompt + sequence.answer, most)


def test_text_that_repeats_one_token_is_expected_to_go_on() -> None:
    lookup, sequence = PromptLookup(Prompts.pack([[5, 7, 7]])), sequence_of([5, 7, 7])
    assert lookup.guess(sequence, 4) == Guess((7, 7, 7, 7), 1)


def test_only_the_end_of_a_very_long_prompt_is_searched() -> None:
    prompt = [7, 8, *range(100, 100 + SEARCHED_TOKENS), 7]
    lookup, sequence = PromptLookup(Prompts.pack([prompt])), sequence_of(prompt)
    assert lookup.guess(sequence, 1) is None
    sequence.answer.extend([9, 7])
    assert lookup.guess(sequence, 2) == Guess((9, 7), 1)


def test_sequences_are_apart_and_forgotten_ones_begin_anew() -> None:
    lookup = PromptLookup(Prompts.pack([[1, 2, 1], [3, 3]]))
    first, second = sequence_of([1, 2, 1]), sequence_of([3, 3], index=1)
    assert lookup.guess(first, 1) == Guess((2,), 1)
    assert lookup.guess(second, 1) == Guess((3,), 1)
    lookup.forget(first)
    lookup.forget(first)
    assert lookup.guess(first, 2) == Guess((2, 1), 1)


@pytest.mark.parametrize(
    ("drawn", "guessed", "counts"),
    [
        ([1, 2, 3], (1, 2), [1, 2, 3]),
        ([1, 2, 3], (1, 9), [1, 2]),
        ([1, 2, 3], (9, 2), [1]),
        ([-1, 2], (1,), [-1]),
    ],
)
def test_drawn_tokens_count_up_to_the_first_wrong_guess(
    drawn: list[int], guessed: tuple[int, ...], counts: list[int]
) -> None:
    assert kept(drawn, Draft(5, guessed)) == counts


def test_without_a_draft_all_that_is_drawn_counts() -> None:
    assert kept([4], None) == [4]
