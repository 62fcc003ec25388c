"""KV blocks for segments: those that are free, and those that can be had back without loss."""

from __future__ import annotations

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, Ledger
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.kept_answers import KeptAnswers
from batchpipe.planner.schedule.live_tree import LiveTree
from batchpipe.planner.schedule.segment import Segment


class Room:
    """Gives blocks to segments of a tree."""

    def __init__(self, ledger: Ledger, kept: KeptAnswers, tree: LiveTree, counts: Counts) -> None:
        self._ledger, self._kept, self._tree, self._counts = ledger, kept, tree, counts

    def make(self, blocks: int) -> bool:
        """So many blocks are free; False where somebody who runs would have to leave for that.

        What one prompt will follow goes before what several will read.
        """
        while blocks > self._ledger.free:
            evicted = self._kept.drop()
            if evicted is None:
                evicted = self._tree.evict()
            if evicted is None:
                return False
            self._counts.evicted_tokens += evicted
        return True

    def give(self, segment: Segment, blocks: int) -> None:
        """The segment owns so many blocks more, which are free."""
        if not blocks:
            return
        if not segment.blocks and segment.node >= 0:
            self._tree.hold(segment)
        if blocks == 1 and segment.blocks:
            segment.blocks.append(self._ledger.take_after(segment.blocks[-1]))
        else:
            segment.blocks.extend(self._ledger.take(blocks))
        held = (self._ledger.total - self._ledger.free) * BLOCK_TOKENS
        self._counts.peak_kv_tokens = max(self._counts.peak_kv_tokens, held)
