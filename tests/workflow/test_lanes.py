"""Calls wait by whom they ask: a slow host, database or function keeps nobody else waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Event, Lock, Thread
from typing import Any

import pytest
from harness import write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

import batchpipe as bp
from batchpipe.workflow.kinds.benches import Call, Lanes
from batchpipe.workflow.outcome import Outcome


def call(lane: str, make: Callable[[], Outcome]) -> Call:
    return Call(b"", make, lane=lane)


def test_a_slow_lane_keeps_no_other_waiting() -> None:
    slow, answered = Event(), set()
    lanes: Lanes[str] = Lanes(8, "hosts", lane_calls=4)

    def wait() -> Outcome:
        slow.wait()
        return Outcome()

    for number in range(100):
        lanes.add(f"slow {number}", call("slow", wait))
    for number in range(50):
        lanes.add(f"quick {number}", call("quick", Outcome))
    while len(answered) < 50:  # would not end if the slow ones came first
        lanes.begin()
        answered |= {asker for asker, _ in lanes.finished(None)}
    assert all(asker.startswith("quick") for asker in answered)
    assert lanes.unfinished == 100
    slow.set()
    while lanes.unfinished:
        lanes.begin()
        lanes.finished(1.0)
    lanes.close()


@settings(max_examples=30)
@given(
    threads=st.integers(1, 6),
    lane_calls=st.integers(1, 4),
    plan=st.lists(st.sampled_from("abc"), max_size=60),
)
def test_each_is_answered_once_and_no_more_are_under_way_than_may_be(
    threads: int, lane_calls: int, plan: list[str]
) -> None:
    at_once: Counter[str] = Counter()
    lock = Lock()
    most: Counter[str] = Counter()

    def made(lane: str) -> Callable[[], Outcome]:
        def make() -> Outcome:
            with lock:
                at_once[lane] += 1
                most[lane] = max(most[lane], at_once[lane])
                most[""] = max(most[""], at_once.total())
            with lock:
                at_once[lane] -= 1
            return Outcome({"lane": lane})

        return make

    lanes: Lanes[int] = Lanes(threads, "hosts", lane_calls=lane_calls)
    for number, lane in enumerate(plan):
        lanes.add(number, call(lane, made(lane)))
    assert lanes.unfinished == len(plan)
    answered = []
    while lanes.unfinished:
        lanes.begin()
        answered += lanes.finished(None)
    lanes.close()
    assert {asker: outcome.values["lane"] for asker, outcome in answered} == dict(enumerate(plan))
    assert len(answered) == len(plan)
    assert most.pop("", 0) <= threads
    assert max(most.values(), default=0) <= lane_calls


class Server:
    """Answers a request only when ``opened``; counts how many wait for that."""

    def __init__(self) -> None:
        self.opened, self.came, self.most, self.waiting = Event(), 0, 0, 0
        lock = Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    server.came += 1
                    server.waiting += 1
                    server.most = max(server.most, server.waiting)
                server.opened.wait()
                with lock:
                    server.waiting -= 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Many(ThreadingHTTPServer):
            daemon_threads, block_on_close, request_queue_size = True, False, 256

        self._server = Many(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.opened.set()
        self._server.shutdown()
        self._server.server_close()


def test_a_workflow_goes_on_beside_a_host_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow host answers once the other has answered everything."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    slow, quick = Server(), Server()
    quick.opened.set()
    inputs = write_lines(
        tmp_path / "in.jsonl",
        [{"url": (slow if n < 300 else quick).url, "n": n} for n in range(400)],
    )
    flow = bp.Workflow().http("page", "GET {{ url }}/{{ n }}", attempts=1, timeout=600)

    def opened(progress: Any) -> None:
        if quick.came == 100:
            slow.opened.set()

    summary = flow.run(inputs, out=tmp_path / "out.jsonl", progress=opened)
    assert (summary.succeeded, slow.came, quick.came) == (400, 300, 100)
    assert slow.most <= 32
    slow.close()
    quick.close()


def test_a_slow_function_keeps_no_other_waiting(tmp_path: Path) -> None:
    """Each waits for the other's first batch."""
    together = Barrier(2)

    def one(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        together.wait()
        return [{"x": row["n"]} for row in rows]

    def other(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        together.wait()
        return [{"y": row["n"]} for row in rows]

    inputs = write_lines(tmp_path / "in.jsonl", [{"n": n} for n in range(8)])
    flow = bp.Workflow()
    flow.python("one", one, reads=["n"], writes=["x"], batch_rows=4)
    flow.python("other", other, reads=["n"], writes=["y"], batch_rows=4)
    assert flow.run(inputs, out=tmp_path / "out.jsonl").succeeded == 8
