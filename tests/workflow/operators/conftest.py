"""Databases that tests ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import BINARIES, PostgresServer, postgres_server

FILMS = (
    "CREATE TABLE films (title text, year integer, rating numeric(4, 2), seen date)",
    "INSERT INTO films VALUES ('Alien', 1979, 8.5, '1979-05-25')",
    "INSERT INTO films VALUES ('Heat', 1995, 8.25, '1995-12-15')",
    "INSERT INTO films VALUES ('100% Wolf', 2020, NULL, NULL)",
)


@pytest.fixture(scope="module")
def _server() -> Iterator[PostgresServer]:
    if not BINARIES:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    with postgres_server() as server:
        server.execute(*FILMS)
        yield server


@pytest.fixture
def server(_server: PostgresServer) -> PostgresServer:
    """A PostgreSQL server with a table of films, which answers."""
    _server.kill()  # what the test before left behind
    _server.start()
    return _server


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """A SQLite file with the same films."""
    path = tmp_path / "a file's 50% films #1.db"
    connection = sqlite3.connect(path)
    for statement in FILMS:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path
