"""Which models each worker is to have, and which it was last told to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchpipe.planner.query.planning import Hardware
from batchpipe.planner.query.spread import Models, matched, spread


class Parts:
    """At first nobody has anything.

    Args:
        hardware: so many workers, each such a machine
        work: modelled seconds of each model
    """

    def __init__(self, hardware: Hardware, work: Mapping[str, float]) -> None:
        self._hardware, self._work = hardware, work
        self._parts: list[Models] = [()] * hardware.workers
        self._loaded: list[Models] = [()] * hardware.workers
        self.loads = 0

    def divide(self, names: Models, workers: Sequence[int]) -> bool:
        """These workers are to have these models; false where they have no room for them."""
        hardware, work = self._hardware, {name: self._work[name] for name in names}
        now = spread(work, hardware.sizes, hardware.device_bytes, len(workers))
        if now is None:
            return False
        before = [self._parts[worker] for worker in workers]
        for worker, part in zip(workers, matched(before, now), strict=True):
            self._parts[worker] = part
        return True

    def load(self, worker: int, *, anew: bool) -> tuple[Models]:
        """The arguments of ``load`` of the worker, who has nothing yet if it is ``anew``."""
        part, before = self._parts[worker], () if anew else self._loaded[worker]
        self.loads += len(set(part) - set(before))
        self._loaded[worker] = part
        return (part,)

    def loaded(self, worker: int) -> Models:
        """What the worker was last told to load."""
        return self._loaded[worker]

    def staying(self, worker: int) -> set[str]:
        """Of that, what it is still to have."""
        return set(self._loaded[worker]) & set(self._parts[worker])

    def is_current(self, worker: int) -> bool:
        """True where the worker was last told to load what it is to have."""
        return self._parts[worker] == self._loaded[worker]
