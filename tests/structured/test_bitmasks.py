"""A mask is its bits, and it is applied as they say."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.structured.bitmasks import SHORT, apply_short_masks, mask_of


@given(st.data())
def test_a_mask_allows_the_tokens_that_it_is_of(data: st.DataObject) -> None:
    vocab = data.draw(st.integers(1, 200))
    tokens = data.draw(st.sets(st.integers(0, vocab - 1)))
    [words] = mask_of(tokens, vocab).tolist()
    assert len(words) == -(-vocab // 32)
    bits = range(32 * len(words))
    assert {bit for bit in bits if words[bit // 32] >> bit % 32 & 1} == tokens


@given(st.data())
def test_only_rows_with_short_masks_lose_what_these_do_not_allow(data: st.DataObject) -> None:
    rows, vocab = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 200))
    some = st.sets(st.integers(0, vocab - 1), max_size=12) | st.just(set(range(vocab)))
    allowed = [data.draw(some) for _ in range(rows)]
    asked = sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    masks = torch.cat([mask_of(each, vocab) for each in allowed])
    before = torch.randn(rows, vocab)
    expected = before.clone()
    short = [row for row in asked if len(allowed[row]) < SHORT * vocab]
    for row in short:
        for token in set(range(vocab)) - allowed[row]:
            expected[row, token] = -torch.inf
    found = before.clone()
    assert apply_short_masks(masks, found, asked) == [row for row in asked if row not in short]
    assert torch.equal(found, expected)
