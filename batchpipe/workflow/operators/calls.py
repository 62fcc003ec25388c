"""Calls that wait for others, on threads, beside a loop that has something better to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Generic, TypeVar

from batchpipe.rows.words import one_line
from batchpipe.workflow.outcome import Outcome

Key = TypeVar("Key", bound=Hashable)

GRACE_SECONDS = 5.0  # for calls under way at the end


class ThreadedCalls(Generic[Key]):
    """Up to ``limit`` calls at once, and as many again that wait for a thread.

    Belongs to one loop: `submit`, `finished` and `close` are for one thread. What others are slow
    at should hold up nobody else, so each database and each host wants an object of its own;
    threads begin when there is work for them.
    """

    def __init__(self, limit: int, *, name: str = "call") -> None:
        assert limit > 0, limit
        self._limit, self._name = limit, name
        self._threads: list[Thread] = []
        self._asked: SimpleQueue[tuple[Sequence[Key], Callable[[], Sequence[Outcome]]] | None]
        self._asked = SimpleQueue()
        self._answered: SimpleQueue[list[tuple[Key, Outcome]]] = SimpleQueue()
        self._under_way = 0  # calls submitted whose outcomes are not yet taken
        self._ending = Lock()  # held from `close` on

    @property
    def room(self) -> int:
        """How many more calls may be submitted now; outcomes that nobody took count as calls."""
        return 0 if self._ending.locked() else 2 * self._limit - self._under_way

    @property
    def unfinished(self) -> int:
        """Calls submitted whose outcomes are not yet taken."""
        return self._under_way

    def submit(self, key: Key, call: Callable[[], Outcome]) -> None:
        """The call is made as soon as a thread is free; there must be `room`."""
        self.submit_batch([key], lambda: [call()])

    def submit_batch(self, keys: Sequence[Key], call: Callable[[], Sequence[Outcome]]) -> None:
        """The same for one call that answers all these keys, in their order."""
        assert self.room > 0, "the caller looks at `room` first"
        self._under_way += 1
        self._asked.put((keys, call))
        if len(self._threads) < min(self._limit, self._under_way):
            name = f"{self._name}-{len(self._threads)}"
            # A daemon: a call that never returns keeps no process alive.
            self._threads.append(Thread(target=self._work, name=name, daemon=True))
            self._threads[-1].start()

    def finished(self, timeout_seconds: float | None = 0.0) -> list[tuple[Key, Outcome]]:
        """All outcomes that are there; waits so long for the first of them (None: for ever).

        Returns at once where no call is under way, and after `close`.
        """
        found: list[tuple[Key, Outcome]] = []
        wait = timeout_seconds != 0 and not self._ending.locked()
        while self._under_way:
            try:
                found += self._answered.get(wait, timeout_seconds if wait else None)
            except Empty:
                break
            self._under_way -= 1
            wait = False  # the first is there: of the others only what is there too
        return found

    def close(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """No call begins any more; those under way get so long to end, then nobody waits for them.

        Whoever wants them to end sooner closes first what they wait for.
        """
        if not self._ending.acquire(blocking=False):
            return
        for _ in self._threads:
            self._asked.put(None)  # wakes a thread that has nothing to do
        until = time.monotonic() + grace_seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def __enter__(self) -> ThreadedCalls[Key]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None and not self._ending.locked():
            keys, call = asked
            self._answered.put(_answered(keys, call))


def _answered(
    keys: Sequence[Key], call: Callable[[], Sequence[Outcome]]
) -> list[tuple[Key, Outcome]]:
    began = time.perf_counter()
    try:
        outcomes = list(call())
        assert len(outcomes) == len(keys), (len(outcomes), len(keys))
    except BaseException as error:  # also one that would end the thread: its keys want an outcome
        cause = one_line(str(error))
        sentence = f"{type(error).__name__}: {cause}" if cause else type(error).__name__
        outcomes = [Outcome(error=sentence) for _ in keys]
    seconds = (time.perf_counter() - began) / max(1, len(keys))
    return [
        (key, replace(outcome, seconds=seconds))
        for key, outcome in zip(keys, outcomes, strict=True)
    ]
