"""A real HTTP server in a thread, which answers as a test scripts it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server answers to one request."""

    status: int = 200
    body: bytes = b'{"ok": true}'
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    chunks: int = 1  # that the body comes in
    pause_seconds: float = 0.0  # before each of them
    cut: bool = False  # the connection is closed in place of an answer


@dataclass
class Came:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Host:
    """The server: the replies of a path in their order, the last of which stays."""

    url: str
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    came: list[Came] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def says(self, path: str, *replies: Reply) -> str:
        """The path's URL, which now answers with these."""
        self.replies[path] = list(replies)
        return self.url + path

    def next_reply(self, path: str) -> Reply:
        with self.lock:
            script = self.replies.get(path.partition("?")[0], [Reply(404, b"nothing here")])
            return script.pop(0) if len(script) > 1 else script[0]


def _handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            came = Came(
                self.command, self.path, dict(self.headers), self.rfile.read(length), time.time()
            )
            with host.lock:
                host.came.append(came)
            reply = host.next_reply(self.path)
            if reply.cut:
                self.close_connection = True
                return
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(reply.body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            size = max(1, -(-len(reply.body) // reply.chunks))
            for begin in range(0, len(reply.body), size):
                time.sleep(reply.pause_seconds)
                self.wfile.write(reply.body[begin : begin + size])
                self.wfile.flush()

        do_POST = do_GET

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client did not want to wait
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


@contextmanager
def http_host() -> Iterator[Host]:
    """Within the block the server answers."""
    host = Host("")
    server = _Server(("127.0.0.1", 0), _handler(host))
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
