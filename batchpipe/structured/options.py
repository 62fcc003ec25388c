"""Forms as they are given on the command line: a file may stand for its content."""

from __future__ import annotations

from pathlib import Path

from batchpipe.errors import ConfigError


def file_or_text(name: str, given: str) -> str:
    """The content of the file of this name; what is no file's name is itself the value.

    A run keeps the content, so that it sees where a file has changed.

    Raises:
        ConfigError: it looks like a file and is none, or one that cannot be read
    """
    path = Path(given.removeprefix("@"))
    looks_like_file = given.startswith("@") or path.suffix in (".json", ".gbnf", ".ebnf")
    try:
        if not looks_like_file and not path.is_file():
            return given
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        if not looks_like_file:  # too long for a file's name, say
            return given
        raise ConfigError(f"--{name} {given} cannot be read: {error}") from error
