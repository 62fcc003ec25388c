"""How values are shown in sentences to the user."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """The value as Python would write it, on one line and cut where it is long."""
    return one_line(repr(value), _SHOWN_CHARACTERS)


def one_line(text: str, most: int = 200) -> str:
    """The text without line breaks, cut after ``most`` characters, and valid UTF-8."""
    joined = " ".join(text.split())
    cut = joined if len(joined) <= most else joined[: most - 1] + "…"
    return cut.encode("utf-8", "backslashreplace").decode()


def listed(names: Iterable[str]) -> str:
    """The names with commas, or a word for none."""
    return ", ".join(names) or "none"
