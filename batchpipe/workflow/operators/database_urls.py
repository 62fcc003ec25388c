"""Where a SQLite file lies, as a database's URL says it. Knows no SQLAlchemy."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

from batchpipe.errors import ConfigError

MODES = ("ro", "rw", "rwc")  # SQLite's own words, which we take for every database


def sqlite_uri(name: str, path: str | None, mode: str) -> str:
    """The file as SQLite's own URI, which opens it in this mode and no other file in its place.

    Raises:
        ConfigError: it is no file, or is not there
    """
    if path is None or path in ("", ":memory:", "file::memory:"):
        raise ConfigError(
            f"database {name}: a SQLite database in memory is gone with the connection that made "
            f"it, so each thread would see an empty one; name a file: sqlite:///{name}.db"
        )
    if path.startswith("file:"):
        path = unquote(path.removeprefix("file:").partition("?")[0])
    file = Path(os.path.abspath(path))
    if mode != "rwc" and not file.is_file():
        what = "is a directory" if file.is_dir() else "does not exist"
        raise ConfigError(
            f"database {name}: the SQLite file {path} {what}; paths count from the working "
            f"directory, and absolute ones have four slashes: sqlite:////srv/films.db"
        )
    return f"file:{quote(str(file))}"
