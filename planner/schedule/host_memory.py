"""KV that left the device and lies in host memory, until whoever needs it has it back.

What is here need not be computed again. It costs two copies over the link between both memories, so
it is worth that where computing takes longer. Knows counts and slots, never the memory behind them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, Ledger, blocks_for
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.schedule.counts import Counts
from batchpipe.planner.schedule.segment import Segment, Slots

_NEVER = 1 << 62  # a position behind all texts

Reserve = Callable[[Segment, int], bool]  # blocks for the segment's first tokens


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """KV to copy from the device to the host, or back; the copy there is of no account then."""

    device: Slots  # [tokens]
    host: Slots  # [tokens]
    out: bool  # from the device to the host


@dataclass(frozen=True, slots=True, eq=False)
class Aside:
    """KV of some tokens of a text, on the host."""

    position: int  # of the first of them in the text
    slots: Slots  # of the host's KV, one for each  # [tokens]
    blocks: list[int]  # of the host, that these are in

    @property
    def end(self) -> int:
        """The position behind the last of them."""
        return self.position + len(self.slots)

    def between(self, start: int, end: int) -> Aside | None:
        """What it has of the positions ``start:end``."""
        start, end = max(start, self.position), min(end, self.end)
        if start >= end:
            return None
        slots = self.slots[start - self.position : end - self.position]
        return Aside(start, slots, np.unique(slots // BLOCK_TOKENS).tolist())


class HostMemory:
    """What is set aside for segments, and which copies the next step begins with.

    The copies are to be made in the order in which they were decided: then a block, here or there,
    may have been freed and taken again in between.

    Args:
        ledger: of the host's blocks; None: there are none, and all that leaves is computed again
        cost: what copying and computing take; None: nothing leaves
        counts: of the run
    """

    def __init__(self, ledger: Ledger | None, cost: StepCost | None, counts: Counts) -> None:
        self._ledger, self._cost, self._counts = ledger, cost, counts
        self._moves: list[Move] = []
        # By node, ~rank for tails: what a segment has here, from its beginning to its end.
        self._of_segment: dict[int, list[Aside]] = {}

    def moves(self) -> tuple[Move, ...]:
        """The copies decided since this was asked last, in order."""
        moves, self._moves = tuple(self._moves), []
        return moves

    # ---- any tokens -------------------------------------------------------------------------

    def set_aside(self, position: int, slots: Slots) -> Aside | None:
        """KV that is about to leave the device lies here then.

        None where that does not pay, or where there is no room: what lies here stays. Whoever
        leaves later is mostly needed sooner, but one of both would be computed in either case.
        """
        wanted = blocks_for(len(slots))
        if self._ledger is None or self._cost is None or not 0 < wanted <= self._ledger.free:
            return None
        if not self._cost.pays_to_set_aside(len(slots), position):
            return None
        blocks = self._ledger.take(wanted)
        aside = Aside(position, _first_slots(blocks, len(slots)), blocks)
        self._moves.append(Move(slots, aside.slots, out=True))
        self._counts.swapped_tokens += len(slots)
        return aside

    def free(self, aside: Aside) -> None:
        """It is needed no more."""
        assert self._ledger is not None, "what is here has blocks"
        self._ledger.give_back(aside.blocks)

    # ---- segments ---------------------------------------------------------------------------

    def leaving(self, segment: Segment) -> None:
        """What the segment holds is about to leave the device; it lies here then, if that pays."""
        if self._ledger is None:
            return
        computed_until = segment.position + segment.computed
        self._free_until(computed_until, _key(segment))
        aside = self.set_aside(segment.position, segment.slots[: segment.computed])
        if aside is not None:
            self._add(aside, segment)

    def hand(self, aside: Aside, segment: Segment, most: int) -> None:
        """The segment has what is here of its first ``most`` tokens, as others may have too."""
        first = segment.position + segment.computed
        part = aside.between(first, segment.position + most)
        if part is not None:
            assert self._ledger is not None, "what is here has blocks"
            self._ledger.share(part.blocks)
            self._add(part, segment)

    def bring_back(self, segment: Segment, reserve: Reserve) -> bool:
        """What is here of the tokens behind those computed is computed; False without room."""
        key = _key(segment)
        while asides := self._of_segment.get(key):
            first, start = asides[0], segment.computed
            skipped = segment.position + start - first.position
            if skipped < 0:
                break
            end = first.end - segment.position
            if start < end:
                if not reserve(segment, end):
                    return False
                back = Move(segment.slots[start:end], first.slots[skipped:], out=False)
                self._moves.append(back)
                self._counts.restored_tokens += end - start
                segment.computed = end
            self._free_until(first.end, key)
        return True

    def resumes(self, segment: Segment, start: int) -> int:
        """The place up to which it is to be computed from ``start`` on: what follows is here."""
        asides = self._of_segment.get(_key(segment), ())
        places = (aside.position - segment.position for aside in asides)
        return next((place for place in places if place > start), segment.length)

    def forget(self, segment: Segment) -> None:
        """Nothing is here for the segment."""
        self._free_until(_NEVER, _key(segment))

    def uproot(self) -> list[tuple[int, Aside]]:
        """All that is here for segments, by node or ~rank; none of them has it any more."""
        found = [(key, aside) for key, asides in self._of_segment.items() for aside in asides]
        self._of_segment = {}
        return sorted(found, key=lambda each: each[1].position)

    def _add(self, aside: Aside, segment: Segment) -> None:
        asides = self._of_segment.setdefault(_key(segment), [])
        insort(asides, aside, key=lambda each: each.position)

    def _free_until(self, end: int, key: int) -> None:
        """What ends there, or before, is here no more for the segment."""
        asides = self._of_segment.pop(key, [])
        later = [aside for aside in asides if aside.end > end]
        for aside in asides:
            if aside.end <= end:
                self.free(aside)
        if later:
            self._of_segment[key] = later


def _key(segment: Segment) -> int:
    return segment.node if segment.node >= 0 else ~segment.rank


def _first_slots(blocks: list[int], tokens: int) -> Slots:
    """The first so many slots of these blocks."""
    firsts = np.asarray(blocks, dtype=np.int64)
    slots: Slots = (firsts[:, None] * BLOCK_TOKENS + np.arange(BLOCK_TOKENS)).ravel()[:tokens]
    return slots
