"""A real PostgreSQL server on this machine, of Debian's packages, which can be killed and revived.

It listens on a socket in a directory of its own, so no port can be taken. PostgreSQL refuses to run
as root: then it runs as the user ``postgres``, which the package makes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


class PostgresServer:
    """A server with an empty database, begun by `start`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-A", "trust", "-U", "someone", "-E", "UTF8", "--no-locale", "-N")

    @property
    def url(self) -> str:
        """As SQLAlchemy writes it."""
        return f"postgresql+psycopg://someone@/postgres?host={self._folder}"

    def start(self) -> None:
        """The server answers."""
        settings = ["fsync=off", "listen_addresses=", "shared_buffers=16MB", "max_connections=40"]
        command = [str(BINARIES[-1]), "-D", str(self._folder / "tables"), "-k", str(self._folder)]
        for setting in settings:
            command += ["-c", setting]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, **self._user
            )
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """The server is gone as after a crash, and with it every connection."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # its "immediate" end: nothing is tidied up
            self._process.wait()
            self._process = None

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """The rows of the last of these statements, all of which are carried out."""
        with self._connect() as connection:
            for statement in statements:
                found = connection.execute(statement)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(f"host={self._folder} user=someone dbname=postgres")

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, binary: str, *options: str) -> None:
        command = [str(BINARIES[-1].with_name(binary)), "-D", str(self._folder / "tables")]
        made = subprocess.run(
            [*command, *options], capture_output=True, text=True, cwd=self._folder, **self._user
        )
        assert made.returncode == 0, made.stderr


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Within the block a server answers."""
    # Not pytest's folder, into which no other user can look.
    folder = Path(tempfile.mkdtemp(prefix="batchpipe-postgres-"))
    server = PostgresServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
