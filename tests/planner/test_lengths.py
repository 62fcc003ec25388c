"""Expected answer lengths: exact where known, else from answers alike, group by group."""

from __future__ import annotations

import math
import random
from collections import Counter
from fractions import Fraction
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchpipe.planner.lengths import (
    FEW_ANSWERS,
    FIRST_GUESS_TOKENS,
    GUESS_QUANTILE,
    KEY_TOKENS,
    MIN_GROUP,
    RECENT_ANSWERS,
    REST,
    OutputLengths,
    group_prompts,
)
from batchpipe.planner.request import Prompts
from batchpipe.planner.tree.prefix_tree import build

UNLIMITED = 10**6
GROUPS = 4  # prompt i is of group i, if not said otherwise

answers = st.lists(st.integers(1, 60), max_size=40)
grouped_answers = st.lists(st.tuples(st.integers(0, GROUPS - 1), st.integers(1, 60)), max_size=60)


def after(finished: list[int]) -> OutputLengths:
    lengths = OutputLengths()
    for length in finished:
        lengths.add(0, length)
    return lengths


def after_groups(finished: list[tuple[int, int]]) -> OutputLengths:
    lengths = OutputLengths(np.arange(GROUPS, dtype=np.int32))
    for prompt, length in finished:
        lengths.add(prompt, length)
    return lengths


def expected(lengths: OutputLengths, limits: list[int], exact: bool = False) -> list[int]:
    return lengths.expected(np.array(limits), np.full(len(limits), exact)).tolist()


@given(answers, st.integers(0, 80), st.integers(1, 100))
def test_exact_answer_has_what_its_limit_leaves(
    finished: list[int], produced: int, max_tokens: int
) -> None:
    remaining = after(finished).remaining(0, produced, max_tokens, exact=True)
    assert remaining == max(1, max_tokens - produced)


@given(grouped_answers, st.integers(0, GROUPS - 1), st.integers(0, 80), st.integers(1, 100))
def test_remaining_stays_within_the_limit(
    finished: list[tuple[int, int]], prompt: int, produced: int, max_tokens: int
) -> None:
    remaining = after_groups(finished).remaining(prompt, produced, max_tokens, exact=False)
    assert 1 <= remaining <= max(1, max_tokens - produced)


@given(answers, st.integers(0, 59))
def test_answer_is_compared_only_with_longer_ones(finished: list[int], produced: int) -> None:
    longer = sorted(length for length in finished if length > produced)
    if not longer:
        return
    end = after(finished).remaining(0, produced, UNLIMITED, exact=False) + produced
    # At the quantile: that share of the longer answers ended at or before it, and no more needed.
    assert end == longer[math.floor(GUESS_QUANTILE * (len(longer) - 1))]


@given(grouped_answers, st.integers(0, 59))
def test_group_with_enough_answers_looks_at_no_other(
    finished: list[tuple[int, int]], produced: int
) -> None:
    own = [length for prompt, length in finished if prompt == 0]
    if len(own) < FEW_ANSWERS or max(own) <= produced:
        return
    alone = after(own).remaining(0, produced, UNLIMITED, exact=False)
    assert after_groups(finished).remaining(0, produced, UNLIMITED, exact=False) == alone


def test_group_with_few_answers_mixes_with_the_others() -> None:
    lengths = after_groups([(1, 100)] * 90)
    assert lengths.remaining(0, 0, UNLIMITED, exact=False) == 100
    seen = []
    for _ in range(FEW_ANSWERS):
        lengths.add(0, 10)
        seen.append(lengths.remaining(0, 0, UNLIMITED, exact=False))
    assert seen == [82, 64, 46, 28, 10]


def test_answer_longer_than_its_group_is_compared_with_the_others() -> None:
    lengths = after_groups([(0, 10)] * 20 + [(1, 300)] * 20)
    assert lengths.remaining(0, 9, UNLIMITED, exact=False) == 1
    assert lengths.remaining(0, 10, UNLIMITED, exact=False) == 290
    assert lengths.remaining(0, 300, UNLIMITED, exact=False) == 150


@given(grouped_answers, st.integers(0, GROUPS - 1))
def test_expected_end_never_comes_nearer_while_an_answer_grows(
    finished: list[tuple[int, int]], prompt: int
) -> None:
    lengths = after_groups(finished)
    ends = [
        produced + lengths.remaining(prompt, produced, UNLIMITED, exact=False)
        for produced in range(65)
    ]
    assert ends == sorted(ends)


def test_first_guess_stands_until_an_answer_is_longer() -> None:
    assert OutputLengths().remaining(0, 0, UNLIMITED, exact=False) == FIRST_GUESS_TOKENS
    assert after([5, 9]).remaining(0, 9, UNLIMITED, exact=False) == FIRST_GUESS_TOKENS
    assert after([5, 9]).remaining(0, 8, UNLIMITED, exact=False) == 1


def test_answer_longer_than_all_before_is_expected_to_grow_by_half() -> None:
    produced = 4 * FIRST_GUESS_TOKENS
    assert after([7]).remaining(0, produced, UNLIMITED, exact=False) == produced // 2


def test_only_recent_answers_count() -> None:
    lengths = after([500] * RECENT_ANSWERS)
    assert lengths.remaining(0, 0, UNLIMITED, exact=False) == 500
    for _ in range(RECENT_ANSWERS):
        lengths.add(0, 3)
    assert lengths.remaining(0, 0, UNLIMITED, exact=False) == 3
    assert lengths.remaining(0, 3, UNLIMITED, exact=False) == FIRST_GUESS_TOKENS
    assert expected(lengths, [UNLIMITED]) == [3]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=RECENT_ANSWERS, max_size=RECENT_ANSWERS + 50))
def test_window_holds_the_last_answers_exactly(finished: list[int]) -> None:
    full, window = after(finished), after(finished[-RECENT_ANSWERS:])
    for produced in range(10):
        assert full.remaining(0, produced, UNLIMITED, exact=False) == window.remaining(
            0, produced, UNLIMITED, exact=False
        )
    assert expected(full, [UNLIMITED]) == expected(window, [UNLIMITED])
    assert full.finished(0) == window.finished(0) == finished[-RECENT_ANSWERS:]


def brute_force_mean(finished: list[tuple[int, int]], group: int, limit: int) -> Fraction:
    """The group's mean of min(length, limit), filled up to five answers with the siblings' mean."""
    own = [min(length, limit) for prompt, length in finished if prompt == group]
    siblings = [min(length, limit) for prompt, length in finished if prompt != group]
    if not own + siblings:
        return Fraction(min(FIRST_GUESS_TOKENS, limit))
    values = [Fraction(value) for value in own]
    if siblings:
        values += [Fraction(sum(siblings), len(siblings))] * (FEW_ANSWERS - len(own))
    return sum(values, Fraction(0)) / len(values)


@given(grouped_answers, st.lists(st.integers(1, 200), min_size=GROUPS, max_size=GROUPS))
def test_expected_length_is_the_mean_of_the_group(
    finished: list[tuple[int, int]], limits: list[int]
) -> None:
    lengths = after_groups(finished)
    for group, (found, limit) in enumerate(zip(expected(lengths, limits), limits, strict=True)):
        assert abs(found - brute_force_mean(finished, group, limit)) <= 0.5 + 1e-6
        assert 1 <= found <= limit
    assert expected(lengths, limits, exact=True) == limits


@given(grouped_answers, st.data())
def test_prompts_of_a_group_with_one_limit_are_expected_alike(
    finished: list[tuple[int, int]], data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.integers(0, GROUPS - 1), min_size=1, max_size=12))
    limit = data.draw(st.integers(1, 100))
    history = {
        group: [length for each, length in finished if each == group] for group in range(GROUPS)
    }
    lengths = OutputLengths(np.array(groups, dtype=np.int32), history)
    by_group = expected(after_groups(finished), [limit] * GROUPS)
    assert expected(lengths, [limit] * len(groups)) == [by_group[group] for group in groups]


@given(st.dictionaries(st.integers(0, GROUPS - 1), answers), st.integers(0, 70))
def test_history_counts_like_answers_of_this_run(
    history: dict[int, list[int]], produced: int
) -> None:
    told = OutputLengths(np.arange(GROUPS, dtype=np.int32), history)
    seen = after_groups([(group, length) for group, each in history.items() for length in each])
    for prompt in range(GROUPS):
        assert told.remaining(prompt, produced, UNLIMITED, exact=False) == seen.remaining(
            prompt, produced, UNLIMITED, exact=False
        )
    assert expected(told, [40] * GROUPS) == expected(seen, [40] * GROUPS)


def test_history_is_kept_only_once() -> None:
    lengths = OutputLengths(history={0: [3] * RECENT_ANSWERS, 1: [8]})
    assert (lengths.known, lengths.finished(0), lengths.finished(1)) == (0, [], [])
    lengths.add(0, 5)
    lengths.add(0, 6)
    assert (lengths.known, lengths.finished(0), lengths.finished(1)) == (2, [5, 6], [])


def test_long_history_of_one_group_hides_no_other() -> None:
    history = {1: [10] * RECENT_ANSWERS, 2: [700] * RECENT_ANSWERS}
    lengths = OutputLengths(np.arange(GROUPS, dtype=np.int32), history)
    assert lengths.remaining(0, 0, UNLIMITED, exact=False) == 700
    assert lengths.remaining(0, 10, UNLIMITED, exact=False) == 690
    assert expected(lengths, [UNLIMITED] * GROUPS) == [355, 10, 700, 355]


def test_no_prompts_have_no_expectation() -> None:
    assert expected(OutputLengths(), []) == []
    assert expected(OutputLengths(np.zeros(0, dtype=np.int32), {3: [7]}), []) == []


def test_limits_of_other_prompts_are_refused() -> None:
    with pytest.raises(AssertionError, match="4 prompts, 3 limits"):
        expected(after_groups([]), [1, 2, 3])


STEMS = np.random.default_rng(1).integers(0, 50, (3, KEY_TOKENS + 6)).tolist()

Rows = list[list[int]]


@st.composite
def template_rows(draw: st.DrawFn) -> Rows:
    """Rows that follow one of a few stems to a place near the end of the key, then go own ways."""
    part = st.tuples(
        st.integers(0, len(STEMS) - 1),
        st.integers(KEY_TOKENS - 2, KEY_TOKENS + 6) | st.integers(1, KEY_TOKENS + 6),
        st.lists(st.integers(50, 53), max_size=3),
    )
    drawn = draw(st.lists(part, max_size=50))
    rows = [[*STEMS[stem][:cut], *own] for stem, cut, own in drawn]
    return [row for row in rows for _ in range(draw(st.sampled_from([1, 1, 1, 5])))]


def keys_of(rows: Rows) -> list[bytes]:
    """The group key of each row."""
    prompts = Prompts.pack(rows)
    groups, keys = group_prompts(build(prompts), prompts)
    assert len(groups) == len(rows)
    assert len(set(keys)) == len(keys)
    assert keys[0] == REST
    assert set(range(1, len(keys))) <= set(groups.tolist()) <= set(range(len(keys)))
    return [keys[group] for group in groups]


@given(template_rows())
def test_group_is_of_the_rows_with_the_same_first_tokens(rows: Rows) -> None:
    heads = [tuple(row[:KEY_TOKENS]) if len(row) > KEY_TOKENS else None for row in rows]
    sizes = Counter(heads)
    wanted = [
        REST
        if head is None or sizes[head] < MIN_GROUP
        else blake2b(np.array(head, dtype="<i4").tobytes(), digest_size=16).digest()
        for head in heads
    ]
    assert keys_of(rows) == wanted


@given(template_rows(), st.randoms(use_true_random=False))
def test_groups_are_the_same_in_any_order_of_rows(rows: Rows, order: random.Random) -> None:
    places = list(range(len(rows)))
    order.shuffle(places)
    keys = keys_of(rows)
    assert keys_of([rows[place] for place in places]) == [keys[place] for place in places]


@given(template_rows(), template_rows())
def test_grouped_row_keeps_its_key_when_rows_are_added(rows: Rows, more: Rows) -> None:
    alone, together = keys_of(rows), keys_of([*more, *rows])[len(more) :]
    assert all(key in (REST, later) for key, later in zip(alone, together, strict=True))


def test_small_group_becomes_one_with_its_last_row() -> None:
    rows = [[*STEMS[0][:KEY_TOKENS], 60 + row] for row in range(MIN_GROUP)]
    assert set(keys_of(rows[1:])) == {REST}
    assert len(set(keys_of(rows))) == 1
    assert keys_of(rows)[0] != REST
