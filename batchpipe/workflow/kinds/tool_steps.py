"""Steps that ask databases, hosts and functions: what each asks for a row, on threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from batchpipe.workflow.kinds.inline_steps import value_of
from batchpipe.workflow.lowering.expressions import Text
from batchpipe.workflow.lowering.readings import Reading
from batchpipe.workflow.operators.calls import ThreadedCalls
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.collapse import digest_of
from batchpipe.workflow.steps import Http, Python, Sql

Asker = TypeVar("Asker", bound=Hashable)


class Query(Protocol):
    """What answers a row's parameters."""

    def answer(self, values: Mapping[str, Any]) -> Outcome:
        """The query's rows."""


class Endpoint(Protocol):
    """What answers a row's request."""

    def answer(self, url: str, headers: Mapping[str, str], body: Any = None) -> Outcome:
        """What the host says."""


class Function(Protocol):
    """What answers a batch of rows."""

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """What the function makes of each row."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a step asks for one row."""

    digest: bytes  # equal for equal calls
    make: Callable[[], Outcome] | None = None
    given: Mapping[str, Any] | None = None  # of a function's row, in place of a call of its own


class ToolStep(Protocol):
    """How a row becomes a call."""

    def call(self, row: Mapping[str, Any]) -> Call:
        """What is asked for this row; `RenderError` where the row does not fit."""


class Querying:
    """A query with the row's parameters."""

    def __init__(self, step: Sql, readings: Mapping[str, Reading], query: Query) -> None:
        self._step, self._readings, self._query = step, readings, query

    def call(self, row: Mapping[str, Any]) -> Call:
        """With the values of the row."""
        step, query = self._step, self._query
        values = {name: value_of(self._readings[f"values.{name}"], row) for name in step.values}
        digest = digest_of("sql", step.database, step.query, sorted(values.items()))
        return Call(digest, lambda: query.answer(values))


class Requesting:
    """A request of the row's own."""

    def __init__(self, step: Http, readings: Mapping[str, Reading], endpoint: Endpoint) -> None:
        self._step, self._readings, self._endpoint = step, readings, endpoint
        self._url = cast(Text, readings["http"])
        self._headers = {name: cast(Text, readings[f"headers.{name}"]) for name in step.headers}

    def call(self, row: Mapping[str, Any]) -> Call:
        """With the row's URL, headers and body."""
        step, endpoint = self._step, self._endpoint
        body = self._filled(step.body, "body", row)
        told = [self._url.without_values(row)]
        told += [[name, *text.without_values(row)] for name, text in sorted(self._headers.items())]
        url = self._url.sent(row)
        headers = {name: text.sent(row) for name, text in self._headers.items()}
        digest = digest_of("http", step.method, told, body)
        return Call(digest, lambda: endpoint.answer(url, headers, body))

    def _filled(self, part: Any, key: str, row: Mapping[str, Any]) -> Any:
        """The body with its texts filled; each stands at its key."""
        if isinstance(part, str):
            return value_of(self._readings[key], row)
        if isinstance(part, Mapping):
            return {name: self._filled(each, f"{key}.{name}", row) for name, each in part.items()}
        if isinstance(part, (list, tuple)):
            return [self._filled(each, f"{key}[{at}]", row) for at, each in enumerate(part)]
        return part


class Calculating:
    """A row of a function's batch."""

    def __init__(self, step: Python, readings: Mapping[str, Reading]) -> None:
        self._step, self._readings = step, readings

    def call(self, row: Mapping[str, Any]) -> Call:
        """With the columns that the function reads."""
        reads = enumerate(self._step.reads)
        given = {name: value_of(self._readings[f"reads[{at}]"], row) for at, name in reads}
        return Call(b"", given=given)


class Bench(Generic[Asker]):
    """Where the calls of one database, of all hosts or of one function wait and are made."""

    def __init__(
        self, threads: int, name: str, function: Function | None = None, batch_rows: int = 1
    ) -> None:
        self._calls: ThreadedCalls[Asker] = ThreadedCalls(threads, name=name)
        self._waiting: deque[tuple[Asker, Call]] = deque()
        self._function, self._batch_rows = function, batch_rows

    def add(self, asker: Asker, call: Call) -> None:
        """The call is made when there is room for it."""
        self._waiting.append((asker, call))

    @property
    def unfinished(self) -> int:
        """Calls that wait or are under way."""
        return len(self._waiting) + self._calls.unfinished

    def begin(self) -> None:
        """As many calls as there is room for are under way.

        A function gets what waits, as soon as it is through with what it had.
        """
        if self._function is not None:
            if self._waiting and not self._calls.unfinished:
                count = min(len(self._waiting), self._batch_rows)
                some = [self._waiting.popleft() for _ in range(count)]
                rows = [call.given or {} for _, call in some]
                function = self._function
                self._calls.submit_batch(
                    [asker for asker, _ in some], lambda: function.answer(rows)
                )
            return
        while self._waiting and self._calls.room > 0:
            asker, call = self._waiting.popleft()
            assert call.make is not None, "it is a call of its own"
            self._calls.submit(asker, call.make)

    def finished(self, timeout_seconds: float = 0.0) -> list[tuple[Asker, Outcome]]:
        """What has been answered; waits so long for the first of it."""
        return self._calls.finished(timeout_seconds)

    def close(self) -> None:
        """No call begins any more, and nobody waits long for those under way."""
        self._waiting.clear()
        self._calls.close()
