"""The KV cache of an online engine, as a baseline: what was used least recently goes first.

Knows nothing of the future. KV that no running sequence reads stays cached until memory is needed,
that of answers too, which nobody will read again, and nothing is freed at its last use: as radix
caches do (SGLang), a leaf of the tree at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from batchpipe.planner.kv_ledger import Ledger
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.segment import Segment


@dataclass(frozen=True, slots=True, eq=False)
class DeadTail:
    """KV that a sequence had alone, left behind when it was answered or preempted."""

    blocks: list[int]
    tokens: int


class LruTree:
    """A stand-in for `planner.live_tree.LiveTree` that a `TokenBatcher` takes as its ``tree``.

    Whoever reads a segment reads all above it, so in the order of last use, where a sequence that
    leaves counts from its tail up to the root, nothing stands behind what is below it: the first
    idle entry is always a leaf.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._segments: dict[int, Segment] = {}  # by tree node
        # Idle and with KV, the least recently used first: by node, dead tails by numbers below 0.
        self._idle: OrderedDict[int, Segment | DeadTail] = OrderedDict()
        self._dead_tails = 0  # so far

    def enter(self, index: int, path_blocks: tuple[tuple[int, int], ...]) -> tuple[Segment, ...]:
        """The prompt's shared segments, root first, now in use by one sequence more."""
        tree = self._plan.tree
        path: list[Segment] = []
        for node, _ in path_blocks:
            segment = self._segments.get(node)
            if segment is None:
                start, end = int(tree.start[node]), int(tree.end[node])
                tokens = self._plan.prompts[index][start:end]
                segment = Segment(node, start, int(tree.first[node]), tokens)
                self._segments[node] = segment
            self._idle.pop(node, None)
            segment.parent = path[-1] if path else None
            segment.users += 1
            path.append(segment)
        return tuple(path)

    def leave(self, path: tuple[Segment, ...]) -> None:
        """One sequence less reads these segments; those that it read alone were used just now."""
        for segment in reversed(path):
            segment.users -= 1
            self._touch(segment)

    def answered(self, path: tuple[Segment, ...]) -> None:
        """Nothing changes: that a prompt was the last below a node is not known."""

    def kept_for_more(self, segment: Segment) -> bool:
        """False: nothing is kept on purpose."""
        return False

    def newly_kept_blocks(self, path_blocks: tuple[tuple[int, int], ...]) -> int:
        """0: nothing is kept on purpose."""
        return 0

    def evict(self) -> int | None:
        """The least recently used of what is idle gives its KV back.

        Returns the tokens whose KV is lost, None where nothing is idle.
        """
        if not self._idle:
            return None
        _, oldest = next(iter(self._idle.items()))
        if isinstance(oldest, Segment):
            tokens = oldest.computed
            self.free(oldest)
            return tokens
        self._idle.popitem(last=False)
        self._ledger.give_back(oldest.blocks)
        return oldest.tokens

    def hold(self, segment: Segment) -> None:
        """The segment is about to hold KV for the first time."""
        if segment.parent is not None:
            segment.parent.held_children += 1

    def discard(self, tail: Segment) -> None:
        """A tail that no sequence reads any more stays cached, as used just now.

        A preempted sequence computes it again: its KV is not found again.
        """
        tokens, blocks = tail.computed, tail.release()
        if blocks:
            self._dead_tails += 1
            self._idle[-self._dead_tails] = DeadTail(blocks, tokens)
        above = tail.parent
        while above is not None:  # what was left with the tail was used no earlier than the tail
            self._touch(above)
            above = above.parent

    def free(self, segment: Segment) -> None:
        """The segment holds no KV; the next sequence that needs it makes it anew."""
        assert not segment.held_children, f"node {segment.node} is no leaf"
        self._idle.pop(segment.node, None)
        if segment.blocks and segment.parent is not None:
            segment.parent.held_children -= 1
        self._ledger.give_back(segment.release())
        del self._segments[segment.node]

    def _touch(self, segment: Segment) -> None:
        if segment.blocks and not segment.users:
            self._idle[segment.node] = segment
            self._idle.move_to_end(segment.node)
