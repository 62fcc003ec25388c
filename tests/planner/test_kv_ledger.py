"""The ledger against a plain set of free blocks."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, KVLedger, blocks_for

TOTAL = 24


def longest_run(blocks: Iterable[int]) -> int:
    """How many consecutive numbers the blocks hold at most."""
    longest = length = 0
    before = None
    for block in sorted(blocks):
        length = length + 1 if before is not None and block == before + 1 else 1
        longest, before = max(longest, length), block
    return longest


class LedgerAgainstSet(RuleBasedStateMachine):
    """Owners take, grow and give back in any order; a set knows what is free."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = KVLedger(TOTAL)
        self.free = set(range(TOTAL))
        self.owned: list[list[int]] = []

    @rule(share=st.integers(0, TOTAL))
    def take(self, share: int) -> None:
        count = min(share, len(self.free))
        taken = self.ledger.take(count)
        assert len(taken) == count
        assert taken == sorted(taken)
        if count <= longest_run(self.free):
            assert longest_run(taken) == count
        self._own(taken)

    @precondition(lambda self: self.free and any(self.owned))
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        blocks = data.draw(st.sampled_from([owned for owned in self.owned if owned]))
        taken = self.ledger.take_after(blocks[-1])
        if blocks[-1] + 1 in self.free:
            assert taken == blocks[-1] + 1
        self._own([taken])

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        blocks = self.owned.pop(data.draw(st.integers(0, len(self.owned) - 1)))
        self.ledger.give_back(data.draw(st.permutations(blocks)))
        self.free |= set(blocks)

    @rule()
    def refuse_more_than_is_free(self) -> None:
        with pytest.raises(AssertionError, match="free"):
            self.ledger.take(len(self.free) + 1)

    @invariant()
    def blocks_conserve(self) -> None:
        self.ledger.check_integrity()
        assert self.ledger.free == len(self.free)
        assert self.ledger.used == TOTAL - len(self.free)

    def _own(self, blocks: list[int]) -> None:
        assert set(blocks) <= self.free, "a block is owned twice or does not exist"
        assert len(set(blocks)) == len(blocks)
        self.free -= set(blocks)
        self.owned.append(blocks)


TestLedgerAgainstSet = LedgerAgainstSet.TestCase
TestLedgerAgainstSet.settings = settings(max_examples=150, stateful_step_count=40)


@given(st.sets(st.integers(0, TOTAL - 1)), st.integers(0, TOTAL))
def test_request_is_served_from_one_run_wherever_one_is_long_enough(
    free: set[int], count: int
) -> None:
    ledger = KVLedger(TOTAL)
    ledger.take(TOTAL)
    ledger.give_back(list(free))
    if count > len(free):
        return
    taken = ledger.take(count)
    assert set(taken) <= free
    if count <= longest_run(free):
        assert longest_run(taken) == count


def test_scattered_request_takes_the_lowest_blocks_in_order() -> None:
    ledger = KVLedger(8)
    ledger.take(8)
    ledger.give_back([6, 1, 4, 3])
    assert ledger.take(3) == [1, 3, 4]
    assert ledger.take(1) == [6]


@given(st.permutations(range(TOTAL)))
def test_all_given_back_is_one_run_again(blocks: list[int]) -> None:
    ledger = KVLedger(TOTAL)
    ledger.take(TOTAL)
    for block in blocks:
        ledger.give_back([block])
        ledger.check_integrity()
    assert ledger.take(TOTAL) == list(range(TOTAL))


@pytest.mark.parametrize("blocks", [[3], [5, 5], [TOTAL], [-1]])
def test_block_that_is_not_owned_breaks_integrity(blocks: list[int]) -> None:
    ledger = KVLedger(TOTAL)
    ledger.take(10)
    ledger.give_back([3])
    ledger.check_integrity()
    ledger.give_back(blocks)
    with pytest.raises(AssertionError):
        ledger.check_integrity()


@given(st.integers(0, 1000))
def test_blocks_for_is_the_least_that_holds_the_tokens(tokens: int) -> None:
    blocks = blocks_for(tokens)
    assert (blocks - 1) * BLOCK_TOKENS < tokens <= blocks * BLOCK_TOKENS or tokens == blocks == 0
