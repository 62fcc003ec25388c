"""Who owns which KV block. Knows counts and block numbers, never the memory behind them."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import Protocol

# A segment wastes 8 slots on average; larger blocks waste more, smaller ones cost time.
BLOCK_TOKENS = 16


def blocks_for(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK_TOKENS)


class Ledger(Protocol):
    """Gives and takes back KV blocks."""

    total: int
    free: int

    def take(self, count: int) -> list[int]:
        """Own ``count`` more blocks."""

    def take_after(self, block: int) -> int:
        """Own one more block, best the one behind ``block``."""

    def share(self, blocks: list[int]) -> None:
        """These blocks have an owner more, and are free once all of them gave them back."""

    def is_shared(self, block: int) -> bool:
        """True where the block has more than one owner."""

    def give_back(self, blocks: list[int]) -> None:
        """Free these blocks."""


class BlockCount:
    """A ledger for a dry run: counts blocks and does not tell them apart."""

    def __init__(self, total: int) -> None:
        assert total > 0, f"a KV ledger needs blocks, got {total}"
        self.total = total
        self.free = total

    def take(self, count: int) -> list[int]:
        """Own ``count`` more blocks; the caller checked that they are free."""
        assert 0 <= count <= self.free, f"{count} blocks wanted, {self.free} of {self.total} free"
        self.free -= count
        return [0] * count

    def take_after(self, block: int) -> int:
        """Own one more block."""
        return self.take(1)[0]

    def share(self, blocks: list[int]) -> None:
        """Never asked: a dry run knows all its prompts from the start."""
        raise AssertionError("blocks that are only counted have one owner each")

    def is_shared(self, block: int) -> bool:
        """False, as `share` says."""
        return False

    def give_back(self, blocks: list[int]) -> None:
        """Free these blocks."""
        self.free += len(blocks)


class KVLedger:
    """Hands out blocks ``0 .. total - 1``; every block is free, owned once, or shared by owners.

    Free space is kept as sorted half-open intervals, and a request is served from one interval
    where one is long enough: a shared node whose blocks are consecutive is read in place.
    """

    def __init__(self, total: int) -> None:
        assert total > 0, f"a KV ledger needs blocks, got {total}"
        self.total = total
        self.free = total
        self._starts = [0]
        self._ends = [total]
        self._more_owners: dict[int, int] = {}  # of the blocks that have more than one

    @property
    def used(self) -> int:
        """Blocks owned now."""
        return self.total - self.free

    def take(self, count: int) -> list[int]:
        """Own ``count`` more blocks, in ascending runs; the caller checked that they are free."""
        assert 0 <= count <= self.free, f"{count} blocks wanted, {self.free} of {self.total} free"
        self.free -= count
        taken: list[int] = []
        place = self._first_long_enough(count)
        while len(taken) < count:
            start = self._starts[place]
            end = min(self._ends[place], start + count - len(taken))
            taken.extend(range(start, end))
            if end == self._ends[place]:
                del self._starts[place], self._ends[place]
                place = 0
            else:
                self._starts[place] = end
        return taken

    def take_after(self, block: int) -> int:
        """Own one more block, the one behind ``block`` where that is free."""
        place = bisect_left(self._starts, block + 1)
        if place < len(self._starts) and self._starts[place] == block + 1:
            self.free -= 1
            if self._ends[place] == block + 2:
                del self._starts[place], self._ends[place]
            else:
                self._starts[place] = block + 2
            return block + 1
        return self.take(1)[0]

    def share(self, blocks: list[int]) -> None:
        """These blocks have an owner more, and are free once all of them gave them back."""
        for block in blocks:
            self._more_owners[block] = self._more_owners.get(block, 0) + 1

    def is_shared(self, block: int) -> bool:
        """True where the block has more than one owner."""
        return block in self._more_owners

    def give_back(self, blocks: list[int]) -> None:
        """One owner less has these blocks; those that nobody has are free."""
        freed = [block for block in blocks if not self._left_to_others(block)]
        self.free += len(freed)
        for start, end in _runs(sorted(freed)):
            place = bisect_left(self._starts, start)
            joins_left = place > 0 and self._ends[place - 1] == start
            joins_right = place < len(self._starts) and self._starts[place] == end
            if joins_left and joins_right:
                self._ends[place - 1] = self._ends[place]
                del self._starts[place], self._ends[place]
            elif joins_left:
                self._ends[place - 1] = end
            elif joins_right:
                self._starts[place] = start
            else:
                self._starts.insert(place, start)
                self._ends.insert(place, end)

    def check_integrity(self) -> None:
        """Free intervals are sorted, apart, within the memory, and add up to the free count."""
        spans = list(zip(self._starts, self._ends, strict=True))
        assert not spans or (spans[0][0] >= 0 and spans[-1][1] <= self.total), (spans, self.total)
        assert sum(end - start for start, end in spans) == self.free, (spans, self.free)
        for (_, end), (start, _) in pairwise(spans):
            assert end < start, spans

    def _left_to_others(self, block: int) -> bool:
        """True where the block had another owner, who has it now."""
        more = self._more_owners.pop(block, 0)
        if more > 1:
            self._more_owners[block] = more - 1
        return more > 0

    def _first_long_enough(self, count: int) -> int:
        for place, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            if end - start >= count:
                return place
        return 0


def _runs(ascending: list[int]) -> list[tuple[int, int]]:
    """The half-open runs of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for block in ascending:
        if runs and runs[-1][1] == block:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return runs
