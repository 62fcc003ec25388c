"""The part of the prefix tree that holds KV now: each node from its first use to its last."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from batchpipe.planner.kv_ledger import Ledger
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.host_memory import HostMemory
from batchpipe.planner.schedule.segment import Segment


class LiveTree:
    """The shared segments, made when a sequence first needs them.

    A node's KV is planned to live until the last prompt below it is answered. Only where memory is
    short an idle leaf, one that no running sequence reads, gives its KV back before that: the one
    whose next use is farthest (Belady).

    Args:
        next_use: how far away the next prompt below a node is; while the node is idle this only
            falls
        host: where KV may go that is evicted
    """

    def __init__(
        self, plan: Plan, ledger: Ledger, next_use: Callable[[int], int], host: HostMemory
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._host = host
        self._next_use = next_use
        self._segments: dict[int, Segment] = {}  # by tree node
        self._due = (plan.tree.last - plan.tree.first).tolist()  # prompts to answer below each node
        self._idle: list[tuple[int, int]] = []  # heap of (-distance when seen last, node)

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
            # A parent that was evicted and made anew is another object than when the child came.
            segment.parent = path[-1] if path else None
            segment.users += 1
            path.append(segment)
        return tuple(path)

    def leave(self, path: tuple[Segment, ...]) -> None:
        """One sequence less reads these segments; their KV stays for those still to come."""
        for segment in reversed(path):
            segment.users -= 1
            self._offer(segment)

    def answered(self, path: tuple[Segment, ...]) -> None:
        """One prompt below these segments is answered; where it was the last, the KV is freed."""
        for segment in reversed(path):
            self._due[segment.node] -= 1
            if not self._due[segment.node]:
                self.free(segment)

    def kept_for_more(self, segment: Segment) -> bool:
        """True where prompts that do not run yet will read what running sequences read now."""
        due: int = self._due[segment.node]
        return 0 < segment.users < due

    def newly_kept_blocks(self, path_blocks: tuple[tuple[int, int], ...]) -> int:
        """Blocks of the nodes that nobody reads yet and that others will read after this path."""
        return sum(
            blocks
            for node, blocks in path_blocks
            if self._due[node] > 1
            and ((held := self._segments.get(node)) is None or not held.users)
        )

    def evict(self) -> int | None:
        """The idle leaf whose next use is farthest gives its KV back (Belady).

        Returns the tokens whose KV is not on the device any more, None where no segment is idle.
        """
        while self._idle:
            distance, node = heapq.heappop(self._idle)
            segment = self._segments.get(node)
            if segment is None or not _evictable(segment):
                continue
            # Distances only fall while a node is idle: what was seen last bounds it from above.
            now = -self._next_use(node)
            if now > distance and self._idle and now > self._idle[0][0]:
                heapq.heappush(self._idle, (now, node))
                continue
            tokens = segment.computed
            self._host.leaving(segment)
            self.free(segment)
            return tokens
        return None

    def idle_leaves(self) -> list[Segment]:
        """The segments that hold KV for prompts to come, and nobody reads, nor holds KV below."""
        return [segment for segment in self._segments.values() if _evictable(segment)]

    def release_all(self, tails: Iterable[Segment]) -> None:
        """No segment of it holds KV any more, nor do these tails: another tree took over."""
        for segment in (*self._segments.values(), *tails):
            self._ledger.give_back(segment.release())
        self._segments.clear()

    def hold(self, segment: Segment) -> None:
        """The segment is about to hold KV for the first time."""
        if segment.parent is not None:
            segment.parent.held_children += 1

    def discard(self, tail: Segment) -> None:
        """A tail that no sequence reads any more gives its KV back."""
        self._ledger.give_back(tail.release())

    def free(self, segment: Segment) -> None:
        """The segment holds no KV; the next sequence that needs it makes it anew."""
        parent = segment.parent
        if segment.blocks and parent is not None:
            parent.held_children -= 1
        self._ledger.give_back(segment.release())
        del self._segments[segment.node]
        if parent is not None:
            self._offer(parent)

    def _offer(self, segment: Segment) -> None:
        """The segment may be evicted from now on, if it is an idle leaf."""
        if _evictable(segment) and self._segments.get(segment.node) is segment:
            heapq.heappush(self._idle, (-self._next_use(segment.node), segment.node))


def _evictable(segment: Segment) -> bool:
    return bool(segment.blocks) and not segment.users and not segment.held_children
