"""What the segments of a tree take over: KV of their tokens that is there under another name.

It lies on the device, where another tree's segments or an answered prompt had it, or on the host.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchpipe.planner.kv_ledger import Ledger
from batchpipe.planner.plan import Plan
from batchpipe.planner.schedule.growth import KVRun, inherit
from batchpipe.planner.schedule.host_memory import Aside, HostMemory
from batchpipe.planner.schedule.live_tree import LiveTree
from batchpipe.planner.schedule.prefill import Prefill
from batchpipe.planner.schedule.segment import Segment, Sequence


class Inheritance:
    """Gives KV that is there to the segments of one tree."""

    def __init__(
        self, plan: Plan, tree: LiveTree, ledger: Ledger, host: HostMemory, prefill: Prefill
    ) -> None:
        self._plan, self._tree, self._ledger = plan, tree, ledger
        self._host, self._prefill = host, prefill

    def from_device(self, run: KVRun, segments: Iterable[Segment]) -> None:
        """Segments along one path, without KV so far, have what the run has of their texts."""
        for segment in segments:
            start, end = self._prefill.inherits(segment, run)
            inherit(segment, run, start, end, self._ledger, self._tree)

    def from_host(self, aside: Aside, segments: Iterable[Segment]) -> None:
        """What lies on the host of the segments' texts is set aside for them."""
        for segment in segments:
            self._host.hand(aside, segment, self._prefill.reusable(segment))

    def of_running(self, sequence: Sequence, run: KVRun) -> None:
        """The sequence goes on in this tree, with what the run has of its text."""
        path = self._path(sequence.index, sequence.path_blocks, run)
        sequence.path = path
        sequence.tail.parent = path[-1] if path else None
        sequence.tail.users = 1
        self.from_device(run, [sequence.tail])

    def of_waiting(self, index: int, run: KVRun) -> None:
        """The nodes above a prompt that has yet to run have what the run has of their texts."""
        self._tree.leave(self._path(index, self._plan.path_blocks(index), run))

    def of_host(self, aside: Aside, index: int, tail: Segment | None) -> None:
        """The nodes above a prompt, and its tail if there is one, have what lies on the host."""
        path = self._tree.enter(index, self._plan.path_blocks(index))
        self.from_host(aside, path if tail is None else (*path, tail))
        self._tree.leave(path)
        self._host.free(aside)

    def _path(
        self, index: int, path_blocks: tuple[tuple[int, int], ...], run: KVRun
    ) -> tuple[Segment, ...]:
        path = self._tree.enter(index, path_blocks)
        for segment in path:
            self.from_device(run, [segment])
            self._prefill.inherited(segment)
        return path
