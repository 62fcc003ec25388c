"""Steps that ask databases, hosts and functions: what each asks for a row, on threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from batchpipe.workflow.kinds.benches import Call
from batchpipe.workflow.kinds.inline_steps import value_of
from batchpipe.workflow.lowering.expressions import Text
from batchpipe.workflow.lowering.readings import Reading
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.collapse import digest_of
from batchpipe.workflow.steps import Http, Python, Sql


class Query(Protocol):
    """What answers a row's parameters."""

    def answer(self, values: Mapping[str, Any]) -> Outcome:
        """The query's rows."""


class Endpoint(Protocol):
    """What answers a row's request."""

    def answer(self, url: str, headers: Mapping[str, str], body: Any = None) -> Outcome:
        """What the host says."""


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
        return Call(digest, lambda: endpoint.answer(url, headers, body), lane=_host(url))

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


def _host(url: str) -> str:
    """Whom the URL asks; whatever is no URL is told of its row when it is asked."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""
