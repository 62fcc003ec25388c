"""Prompts fitted into a context, all at once, against the rules told for one prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.config import ON_TOO_LONG
from batchpipe.job.fit import fit
from batchpipe.planner.request import Prompts, Sampling

CONTEXT, VOCAB = 6, 4

asked_rows = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCAB), min_size=1, max_size=9),
        st.integers(1, CONTEXT + 1),
    )
)


def fitted_alone(ids: list[int], limit: int, on_too_long: str) -> tuple[list[int], int] | str:
    """What one prompt and its limit become, or how the sentence begins."""
    if max(ids) >= VOCAB:
        return f"token id {max(ids)} is not below"
    if limit >= CONTEXT:
        return f"max_tokens is {limit}, and"
    if len(ids) >= CONTEXT:
        if on_too_long == "truncate-left":
            return ids[-(CONTEXT - limit) :], limit
        return f"prompt has {len(ids)} tokens and"
    return ids, min(limit, CONTEXT - len(ids))


@given(asked_rows, st.sampled_from(ON_TOO_LONG))
def test_all_at_once_is_each_alone(asked: list[tuple[list[int], int]], on_too_long: str) -> None:
    samplings = [Sampling(max_tokens=limit) for _, limit in asked]
    prompts = Prompts.pack([ids for ids, _ in asked])
    found = fit(prompts, samplings, context=CONTEXT, vocab=VOCAB, on_too_long=on_too_long)
    places = found.kept.tolist()
    assert sorted([*places, *found.faults]) == list(range(len(asked)))
    good = {
        place: (ids.tolist(), sampling.max_tokens)
        for place, ids, sampling in zip(places, found.prompts, found.samplings, strict=True)
    }
    for place, (ids, limit) in enumerate(asked):
        alone = fitted_alone(ids, limit, on_too_long)
        if isinstance(alone, str):
            assert found.faults[place].startswith(alone)
            long = alone.startswith("prompt has")
            assert (place in found.skipped) == (long and on_too_long == "skip")
        else:
            assert good[place] == alone


def test_equal_answers_share_one_object() -> None:
    sampling = Sampling(max_tokens=5, stop=("x",))
    found = fit(
        Prompts.pack([[1, 1, 1], [2, 2, 2], [3]]),
        [sampling] * 3,
        context=CONTEXT,
        vocab=VOCAB,
        on_too_long="error",
    )
    first, second, third = found.samplings
    assert first is second
    assert first == replace(sampling, max_tokens=3)
    assert third is sampling


@pytest.mark.parametrize("on_too_long", ON_TOO_LONG)
def test_nothing_fits_into_nothing(on_too_long: str) -> None:
    found = fit(Prompts.pack([]), [], context=CONTEXT, vocab=VOCAB, on_too_long=on_too_long)
    assert (len(found.kept), found.samplings, found.faults) == (0, (), {})
