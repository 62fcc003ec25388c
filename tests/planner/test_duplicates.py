"""Collapsed rows against a dict of whole rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.duplicates import collapse
from batchpipe.planner.request import Prompts, Sampling

GREEDY = Sampling()
DRAWN = Sampling(temperature=0.8)
SAMPLINGS = (
    GREEDY,
    Sampling(max_tokens=5),
    Sampling(stop=("\n",)),
    DRAWN,
    Sampling(temperature=0.8, seed=1),
    Sampling(temperature=0.8, seed=2),
)

token_rows = st.lists(st.integers(0, 2), min_size=1, max_size=4)
asked = st.lists(st.tuples(token_rows, st.sampled_from(SAMPLINGS)))


@given(asked)
def test_rows_collapse_like_the_keys_of_a_dict(rows: list[tuple[list[int], Sampling]]) -> None:
    prompts, samplings = Prompts.pack([ids for ids, _ in rows]), [s for _, s in rows]
    found = collapse(prompts, samplings)
    first_of: dict[object, int] = {}
    for index, (ids, sampling) in enumerate(rows):
        own = () if sampling.deterministic else (index,)
        first = first_of.setdefault((tuple(ids), sampling, own), index)
        assert found.kept[found.answered_by[index]] == first
    assert found.kept.tolist() == sorted(first_of.values())
    assert found.kept.dtype == found.answered_by.dtype == np.int32


def test_equal_samplings_need_not_be_one_object() -> None:
    found = collapse(Prompts.pack([[1, 2], [1, 2]]), [Sampling(seed=3), Sampling(seed=3)])
    assert found.kept.tolist() == [0]
    assert found.answered_by.tolist() == [0, 0]


def test_rows_drawn_without_a_seed_stay_apart() -> None:
    found = collapse(Prompts.pack([[1, 2]] * 3), [DRAWN] * 3)
    assert found.kept.tolist() == found.answered_by.tolist() == [0, 1, 2]


def test_rows_split_differently_stay_apart() -> None:
    found = collapse(Prompts.pack([[1, 2], [3], [1], [2, 3], [1, 2]]), [GREEDY] * 5)
    assert found.answered_by.tolist() == [0, 1, 2, 3, 0]


def test_no_rows_collapse_to_none() -> None:
    found = collapse(Prompts.pack([]), [])
    assert len(found.kept) == len(found.answered_by) == 0


def test_taking_prompts_copies_no_tokens() -> None:
    prompts = Prompts.pack([[1, 2], [3], [1], [3]])
    found = collapse(prompts, [GREEDY] * 4)
    assert prompts.take(found.kept).token_ids is prompts.token_ids


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1), st.data())
def test_taken_prompts_are_the_ones_asked_for(rows: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    taken = Prompts.pack(rows).take(np.array(indices, dtype=np.int32))
    assert [ids.tolist() for ids in taken] == [rows[index] for index in indices]
    token_ids, offsets = taken.end_to_end("i4")
    assert token_ids.tolist() == [token for index in indices for token in rows[index]]
    assert np.diff(offsets).tolist() == [len(rows[index]) for index in indices]
    assert taken.tokens == len(token_ids)
