"""Databases, hosts and functions beside a model: asked on threads, once for equal questions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from flow_interpreter import interpreted
from flows import run

from batchpipe.workflow.builder import Workflow

GENRES = ["drama", "crime", "o'neill"]


class Host(BaseHTTPRequestHandler):
    """Says what it was asked for; ``/crime`` is not there."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path.startswith("/crime"):
            self.send_error(404, "no such page")
            return
        content = b'{"page": "%s"}' % self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *given: Any) -> None:
        pass


@pytest.fixture
def host() -> Iterator[tuple[str, list[str]]]:
    Host.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Host.asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def films(tmp_path: Path) -> str:
    path = tmp_path / "films.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE films (title TEXT, genre TEXT)")
        database.executemany(
            "INSERT INTO films VALUES (?, ?)", [(f"f{n}", GENRES[n % 3]) for n in range(9)]
        )
    database.close()
    return f"sqlite:///{path}"


def doubled(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"twice": 2 * row["n"] // (row["n"] != 7)} for row in batch]


def short(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"made": 1} for _ in batch[1:]]


def rows(count: int = 12) -> list[dict[str, Any]]:
    return [{"n": n, "genre": GENRES[n % 3]} for n in range(count)]


def test_tools_and_a_model(
    films: str, host: tuple[str, list[str]], tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    url, asked = host
    flow = Workflow(models={"a": tiny_model("llama")}, databases={"films": films})
    flow.sql(
        "found",
        "films",
        query="SELECT title FROM films WHERE genre = :genre ORDER BY title",
        values={"genre": "genre"},
    )
    flow.http("page", "GET " + url + "/{{ genre | urlencode }}")
    flow.llm(
        "say", "a", template="{{ found['first'].title }} in {{ found.rows | length }}", max_tokens=4
    )
    flow.python("math", doubled, reads=["n"], writes=["twice"])
    flow.output(said="say.output", page="page.json", twice="math.twice", films="found.rows")
    found, summary = run(flow, rows(), tmp_path)
    assert sorted(asked) == ["/crime", "/drama", "/o%27neill"]
    by_step = summary.by_step
    assert (by_step["found"]["calls"], by_step["found"]["collapsed"]) == (3, 9)
    assert (by_step["page"]["calls"], by_step["page"]["collapsed"]) == (3, 9)
    assert by_step["say"]["calls"] == 3
    for n, row in enumerate(found):
        assert row["films"] == [{"title": f"f{m}"} for m in range(n % 3, 9, 3)]
        if n % 3 == 1:
            assert row["error"].startswith(f"step page failed: GET {url}/crime: 404")
            assert row["page"] is None
        elif n % 3 == 0:
            assert row["page"] == {"page": "/drama"}
        assert row["said"] is not None
    broken = found[7]
    assert broken["twice"] is None
    assert broken["status"] == "error"
    assert by_step["math"]["failed"] == 1
    again, second = run(flow, rows(), tmp_path, out="other.jsonl", limit=7)
    assert again == found[:7]
    assert second.input_rows == 7


def test_a_function_of_a_wrong_number_of_rows_fails_its_batch(tmp_path: Path) -> None:
    flow = Workflow()
    flow.python("made", short, reads=["n"], writes=["made"])
    found, summary = run(flow, rows(3), tmp_path)
    assert {row["error"] for row in found} == {
        "step made failed: the function returned 2 rows for 3 rows"
    }
    assert summary.exit_code == 3


def test_a_workflow_without_a_model_needs_none(films: str, tmp_path: Path) -> None:
    flow = Workflow(databases={"films": films})
    flow.sql(
        "found",
        "films",
        query="SELECT count(*) AS n FROM films WHERE genre = :g",
        values={"g": "genre"},
    )
    flow.filter("known", "found['first'].n > 0")
    flow.reduce("all", "input", by=["genre"], items={"n": "n"})
    flow.output(kind="all.genre", members="all.items")
    found, summary = run(flow, [*rows(4), {"n": 4, "genre": "none"}], tmp_path)
    assert [(row["kind"], row["members"]) for row in found] == [
        ("drama", [{"n": 0}, {"n": 3}]),
        ("crime", [{"n": 1}]),
        ("o'neill", [{"n": 2}]),
    ]
    assert summary.filtered == 1
    assert summary.loads == 0


def test_a_query_that_fails_for_a_row_fails_that_row(films: str, tmp_path: Path) -> None:
    flow = Workflow(databases={"films": films})
    flow.sql(
        "sum", "films", query="SELECT abs(:n - 9223372036854775807 - 3) AS n", values={"n": "n"}
    )
    found, summary = run(flow, [{"n": 2}, {"n": 5}, {"n": None}], tmp_path)
    assert summary.failed == sum(row["status"] == "error" for row in found)
    assert found[1]["status"] == "success"


def test_the_interpreter_agrees_where_nobody_is_asked(tmp_path: Path) -> None:
    flow = Workflow()
    flow.python("math", doubled, reads=["n"], writes=["twice"])
    flow.filter("even", "math.twice % 4 == 0")
    flow.output("math.twice")
    found, _ = run(flow, rows(), tmp_path)
    assert found == interpreted(flow.flow, rows())
