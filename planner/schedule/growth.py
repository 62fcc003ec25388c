"""While a plan runs, prompts join it: what holds KV in the old tree holds it in the new one.

A newcomer may part from others within a segment, and where nobody parts any more two become one.
So the new tree cuts the same tokens elsewhere, and its segments inherit the slots of theirs; no KV
is copied. A block in which one segment ends and the next begins is then shared by both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from batchpipe.planner.kv_ledger import BLOCK_TOKENS, Ledger
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.host_memory import Aside, HostMemory
from batchpipe.planner.schedule.live_tree import LiveTree
from batchpipe.planner.schedule.segment import Segment, Sequence, Slots


@dataclass(frozen=True, slots=True, eq=False)
class KVRun:
    """Where the KV of a text's first tokens lies."""

    slots: Slots  # one for each token, and for tokens to come where the last block has room
    computed: int  # tokens whose KV is there

    @property
    def blocks(self) -> list[int]:
        """The blocks that its slots are in, each once."""
        found: list[int] = np.unique(self.slots // BLOCK_TOKENS).tolist()
        return found

    def first(self, tokens: int) -> KVRun:
        """Of so many first tokens, without room for more."""
        most = min(tokens, self.computed)
        return KVRun(self.slots[:most], most)

    def without_room(self) -> KVRun:
        """The slots of what is computed alone."""
        return self.first(self.computed)


def run_through(path: Iterable[Segment], tail: Segment | None = None) -> KVRun:
    """The KV along a path from the root, as far as all of it has slots."""
    slots: list[Slots] = []
    computed, whole = 0, True
    for segment in path:
        computed += segment.computed if whole else 0
        whole = whole and segment.computed == segment.length
        slots.append(segment.slots[: segment.length])
        if segment.room < segment.length:
            return KVRun(np.concatenate(slots), computed)
    if tail is not None:
        computed += tail.computed if whole else 0
        slots.append(tail.slots)
    return KVRun(np.concatenate(slots) if slots else np.empty(0, np.int64), computed)


def from_root(segment: Segment) -> list[Segment]:
    """The segments from the root down to this one."""
    path = [segment]
    while (above := path[-1].parent) is not None:
        path.append(above)
    return path[::-1]


def inherit(
    segment: Segment, run: KVRun, start: int, end: int, ledger: Ledger, tree: LiveTree
) -> None:
    """The segment has what the run knows of its text's tokens ``start:end``, if it has no KV."""
    if segment.blocks or min(run.computed, end) <= start:
        return
    slots = run.slots[start:end]
    blocks: list[int] = np.unique(slots // BLOCK_TOKENS).tolist()
    ledger.share(blocks)
    if segment.node >= 0:
        tree.hold(segment)
    segment.inherit(slots, blocks, min(run.computed, end) - start)


def held_runs(
    tree: LiveTree, running: Iterable[Sequence], someone_below: Callable[[int], int | None]
) -> list[tuple[int, KVRun]]:
    """All KV that is held for prompts of the plan, each run with one of them.

    Args:
        someone_below: a prompt still to come below a node
    """
    runs = [(each.index, run_through(each.path, each.tail)) for each in running]
    idle = [
        (index, run_through(from_root(leaf)))
        for leaf in tree.idle_leaves()
        if (index := someone_below(leaf.node)) is not None
    ]
    # The longest first: what a node inherits should be all that is there.
    return [*runs, *sorted(idle, key=lambda each: -each[1].computed)]


def held_asides(
    host: HostMemory,
    plan: Plan,
    running: Iterable[Sequence],
    someone_below: Callable[[int], int | None],
) -> list[tuple[int, Aside]]:
    """All that the host holds for segments of the plan's tree, each part with one of its prompts.

    They have none of it any more. What nobody needs is free.
    """
    runs_below = {segment.node: each.index for each in running for segment in each.path}
    held: list[tuple[int, Aside]] = []
    for key, aside in host.uproot():
        index: int | None = int(plan.tree.order[~key]) if key < 0 else runs_below.get(key)
        index = someone_below(key) if index is None else index
        if index is None:
            host.free(aside)
        else:
            held.append((index, aside))
    return held


def replanted(sequence: Sequence, plan: Plan) -> None:
    """The sequence's tail begins where the plan's tree has it begin; it holds no KV yet."""
    index, before = sequence.index, sequence.tail
    rank = int(plan.rank_of[index])
    start = int(plan.tree.tail_start[rank])
    prompt = plan.prompts[index]
    tail = Segment(-1, start, rank, prompt[start : sequence.prompt_tokens])
    tail.answer = before.answer
    tail.length = before.position + before.length - start
    sequence.tail, sequence.path_blocks = tail, plan.path_blocks(index)
