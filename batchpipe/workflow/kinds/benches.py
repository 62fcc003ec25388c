"""Where calls wait until they are made on threads: those of hosts and databases, and functions'."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from batchpipe.workflow.operators.calls import ThreadedCalls
from batchpipe.workflow.outcome import Outcome

Asker = TypeVar("Asker", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a step asks for one row."""

    digest: bytes  # equal for equal calls
    make: Callable[[], Outcome] | None = None
    lane: str = ""  # whom it asks, where those on the bench are several
    given: Mapping[str, Any] | None = None  # of a function's row, in place of a call of its own


class Bench(Protocol[Asker]):
    """Calls that wait or are under way."""

    @property
    def unfinished(self) -> int:
        """How many they are."""

    def add(self, asker: Asker, call: Call) -> None:
        """The call is made when there is room for it."""

    def begin(self) -> None:
        """As many calls as there is room for are under way."""

    def finished(self, timeout_seconds: float = 0.0) -> list[tuple[Asker, Outcome]]:
        """What has been answered; waits so long for the first of it."""

    def close(self) -> None:
        """No call begins any more, and nobody waits long for those under way."""


class Lanes(Generic[Asker]):
    """Calls of one database, or of all hosts, each with a lane of its own.

    Up to ``lane_calls`` of a lane are under way, so that a slow one keeps no other waiting as long
    as there are threads; lanes take turns at these.
    """

    def __init__(self, threads: int, name: str, *, lane_calls: int | None = None) -> None:
        self._calls: ThreadedCalls[tuple[Asker, str]] = ThreadedCalls(threads, name=name)
        self._threads, self._lane_calls = threads, lane_calls or threads
        self._waiting: dict[str, deque[tuple[Asker, Callable[[], Outcome]]]] = {}
        self._waiting_calls = 0
        self._under_way: Counter[str] = Counter()  # by lane

    @property
    def unfinished(self) -> int:
        """Calls that wait or are under way."""
        return self._waiting_calls + self._calls.unfinished

    def add(self, asker: Asker, call: Call) -> None:
        """The call waits in its lane."""
        assert call.make is not None, "it is a call of its own"
        self._waiting.setdefault(call.lane, deque()).append((asker, call.make))
        self._waiting_calls += 1

    def begin(self) -> None:
        """As many calls as there is room for are under way, one of each lane after the other."""
        turns = deque(lane for lane in self._waiting if self._has_room(lane))
        while turns and self._calls.unfinished < self._threads and self._calls.room:
            lane = turns.popleft()
            asker, make = self._waiting[lane].popleft()
            self._waiting_calls -= 1
            self._under_way[lane] += 1
            self._calls.submit((asker, lane), make)
            if not self._waiting[lane]:
                del self._waiting[lane]
            elif self._has_room(lane):
                turns.append(lane)

    def finished(self, timeout_seconds: float = 0.0) -> list[tuple[Asker, Outcome]]:
        """What has been answered; waits so long for the first of it."""
        found = []
        for (asker, lane), outcome in self._calls.finished(timeout_seconds):
            self._under_way[lane] -= 1
            if not self._under_way[lane]:
                del self._under_way[lane]
            found.append((asker, outcome))
        return found

    def close(self) -> None:
        """No call begins any more, and nobody waits long for those under way."""
        self._waiting.clear()
        self._waiting_calls = 0
        self._calls.close()

    def _has_room(self, lane: str) -> bool:
        return self._under_way[lane] < self._lane_calls


class Function(Protocol):
    """What answers a batch of rows."""

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """What the function makes of each row."""


class Batches(Generic[Asker]):
    """A function's rows: it gets what waits, as soon as it is through with what it had."""

    def __init__(self, name: str, function: Function, batch_rows: int) -> None:
        self._calls: ThreadedCalls[Asker] = ThreadedCalls(1, name=name)
        self._function, self._batch_rows = function, batch_rows
        self._waiting: deque[tuple[Asker, Call]] = deque()
        self._asked_rows = 0

    @property
    def unfinished(self) -> int:
        """Rows that wait or that the function has."""
        return len(self._waiting) + self._asked_rows

    def add(self, asker: Asker, call: Call) -> None:
        """The row waits for the function."""
        assert call.given is not None, "it is a row of a function"
        self._waiting.append((asker, call))

    def begin(self) -> None:
        """The function has rows, where there are any."""
        if not self._waiting or self._calls.unfinished:
            return
        self._asked_rows = min(len(self._waiting), self._batch_rows)
        some = [self._waiting.popleft() for _ in range(self._asked_rows)]
        rows = [call.given or {} for _, call in some]
        self._calls.submit_batch([a for a, _ in some], lambda: self._function.answer(rows))

    def finished(self, timeout_seconds: float = 0.0) -> list[tuple[Asker, Outcome]]:
        """What the function has made of its rows; waits so long for it."""
        found = self._calls.finished(timeout_seconds)
        self._asked_rows -= len(found)
        return found

    def close(self) -> None:
        """The function gets no more rows, and nobody waits long for it."""
        self._waiting.clear()
        self._calls.close()
