"""The part of the prefix tree that holds KV now: each node from its first use to its last."""

from __future__ import annotations

from collections.abc import Callable

from batchpipe.planner.kv_ledger import KVLedger, blocks_for
from batchpipe.planner.plan import Plan
from batchpipe.planner.segment import Segment


class LiveTree:
    """The shared segments, made when a sequence first needs them.

    A node's KV is planned to live until the last prompt below it is answered. Only where memory is
    short an idle leaf, one that no running sequence reads, gives its KV back before that.
    """

    def __init__(self, plan: Plan, ledger: KVLedger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._segments: dict[int, Segment] = {}  # by tree node
        self._due = (plan.tree.last - plan.tree.first).tolist()  # prompts to answer below each node
        self._blocks_in_use = 0  # of the segments that running sequences read, when computed

    def enter(self, index: int) -> tuple[Segment, ...]:
        """The prompt's shared segments, root first, now in use by one sequence more."""
        tree = self._plan.tree
        path: list[Segment] = []
        for node in tree.path(int(self._plan.rank_of[index])):
            segment = self._segments.get(node)
            if segment is None:
                start, end = int(tree.start[node]), int(tree.end[node])
                tokens = self._plan.prompts[index][start:end].tolist()
                segment = Segment(node, start, int(tree.first[node]), tokens)
                self._segments[node] = segment
            # A parent that was evicted and made anew is another object than when the child came.
            segment.parent = path[-1] if path else None
            segment.users += 1
            if segment.users == 1:
                self._blocks_in_use += blocks_for(len(segment.tokens))
            path.append(segment)
        return tuple(path)

    def leave(self, path: tuple[Segment, ...]) -> None:
        """One sequence less reads these segments; their KV stays for those still to come."""
        for segment in path:
            segment.users -= 1
            if not segment.users:
                self._blocks_in_use -= blocks_for(len(segment.tokens))

    def answered(self, path: tuple[Segment, ...]) -> None:
        """One prompt below these segments is answered; where it was the last, the KV is freed."""
        for segment in path:
            self._due[segment.node] -= 1
            if not self._due[segment.node]:
                self._free(segment)

    def blocks_with(self, index: int) -> int:
        """Blocks of all segments in use, if this prompt were admitted too."""
        tree, blocks = self._plan.tree, self._blocks_in_use
        for node in tree.path(int(self._plan.rank_of[index])):
            segment = self._segments.get(node)
            if segment is None or not segment.users:
                blocks += blocks_for(int(tree.end[node] - tree.start[node]))
        return blocks

    def evict(self, next_use: Callable[[int], int]) -> int | None:
        """The idle leaf whose next use is farthest gives its KV back (Belady).

        Returns the tokens whose KV is lost, None where no segment is idle.
        """
        held = [segment for segment in self._segments.values() if segment.blocks]
        parents = {id(segment.parent) for segment in held}
        idle = [segment for segment in held if not segment.users and id(segment) not in parents]
        if not idle:
            return None
        farthest = max(idle, key=lambda segment: next_use(segment.node))
        tokens = farthest.computed
        self._free(farthest)
        return tokens

    def _free(self, segment: Segment) -> None:
        self._ledger.give_back(segment.release())
        del self._segments[segment.node]
