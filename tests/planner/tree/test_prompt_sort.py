"""Sorted prompts against Python's own sort, and common prefixes counted token by token."""

from __future__ import annotations

from itertools import pairwise, takewhile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.request import Prompts
from batchpipe.planner.tree.prompt_sort import WIDEST_WINDOW_TOKENS, sort_prompts

Rows = list[list[int]]

LARGEST_ID = 2**31 - 1

few_tokens = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), max_size=30)
any_tokens = st.lists(
    st.lists(st.sampled_from([0, 1, 255, 256, 65536, LARGEST_ID]), min_size=1, max_size=4),
    max_size=30,
)


def common_tokens(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def check(rows: Rows) -> None:
    order, common = sort_prompts(Prompts.pack(rows))
    expected = sorted(range(len(rows)), key=lambda index: (rows[index], index))
    assert order.tolist() == expected
    neighbours = pairwise(expected)
    assert common.tolist() == [common_tokens(rows[a], rows[b]) for a, b in neighbours]


@given(st.one_of(few_tokens, any_tokens))
def test_order_and_common_prefixes_are_those_of_sorted_lists(rows: Rows) -> None:
    check(rows)


def test_prompts_that_differ_behind_many_windows() -> None:
    stem = [7] * (3 * WIDEST_WINDOW_TOKENS + 5)
    check([[*stem, 2], [*stem, 1, 1], stem, [*stem, 1], stem[:-1], [*stem[:300], 9], stem])


def test_chains_in_any_order() -> None:
    """Each prompt extends another: what a conversation asked turn by turn looks like."""
    chain = [list(range(length)) for length in range(1, 200)]
    check(chain)
    check(chain[::-1])
    check([chain[place] for place in np.random.default_rng(0).permutation(len(chain))])


def test_prompts_out_of_one_another_in_the_flat_array() -> None:
    """`Prompts` may look at any ranges of their tokens, also overlapping ones and the last."""
    token_ids = np.random.default_rng(0).integers(0, 2, 600).astype(np.int32)
    starts = np.array([599, 0, 300, 300, 10, 595])
    prompts = Prompts(token_ids, starts, np.array([600, 600, 600, 400, 50, 600]))
    rows = [ids.tolist() for ids in prompts]
    order, _ = sort_prompts(prompts)
    assert order.tolist() == sorted(range(len(rows)), key=lambda index: (rows[index], index))


def test_the_tokens_are_read_where_they_lie() -> None:
    token_ids = np.arange(20, dtype=np.int32)
    token_ids.flags.writeable = False
    starts = np.array([10, 0])
    assert sort_prompts(Prompts(token_ids, starts, starts + 10))[0].tolist() == [1, 0]
