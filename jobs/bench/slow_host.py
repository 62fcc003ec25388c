"""A host on this machine that takes its time: each answer comes after 50 to 300 ms.

    python jobs/bench/slow_host.py          # says its port; ends when its stdin does

How long a path takes depends on the path alone, so that everyone who asks waits as long.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

LEAST_SECONDS, MOST_SECONDS = 0.05, 0.3
PLACES = ("the depot", "the harbour", "a lorry", "the sorting hall", "the border", "a neighbour")
STATES = ("waits for a form", "was weighed again", "is on its way", "lost its label", "was opened")


class SlowHost(BaseHTTPRequestHandler):
    """Tells where a parcel is."""

    protocol_version = "HTTP/1.1"  # connections stay open
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """An answer that the path decides, and how late it comes."""
        drawn = random.Random(hashlib.sha256(self.path.encode()).digest())
        time.sleep(drawn.uniform(LEAST_SECONDS, MOST_SECONDS))
        told = {
            "at": drawn.choice(PLACES),
            "state": drawn.choice(STATES),
            "day": drawn.randint(1, 28),
        }
        content = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *given: Any) -> None:
        """Nobody is told."""


@contextmanager
def slow_host() -> Iterator[str]:
    """Within the block a host in a process of its own answers at this address."""
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def main() -> None:
    """Answer until stdin ends, as it does with whoever started this."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowHost)
    Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
