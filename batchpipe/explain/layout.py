"""How figures and names are laid out in what a command prints."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence

INDENT = 20  # of what stands behind a name
WIDTH = 100


def table(lines: Mapping[str, str]) -> str:
    """One line a name, its text behind it in one column."""
    return "\n".join(f"{name:<{INDENT}}{text}" for name, text in lines.items())


def wrapped(text: str, indent: int) -> str:
    """The text in lines of at most `WIDTH`, all but the first with this indent."""
    return f"\n{' ' * indent}".join(textwrap.wrap(text, WIDTH - indent, break_long_words=False))


def figure(value: float, digits: int = 3) -> str:
    """So many digits that count, all of them where there are more before the point."""
    return f"{value:.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:,.0f}"


def time_text(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 100:
        return f"{figure(seconds)} s"
    if seconds < 3600:
        return f"{figure(seconds)} s ({seconds / 60:.1f} min)"
    return f"{figure(seconds)} s ({seconds / 3600:.1f} h)"


def money_text(amount: float) -> str:
    """Two decimals, more where there is less than one to see."""
    if amount >= 1 or amount <= 0:
        return f"{amount:,.2f}"
    return f"{amount:.{max(2, 1 - math.floor(math.log10(amount)))}f}"


def columns(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """One line a row, columns as wide as their widest cell; the first ``left`` begin alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


Part = Mapping[str, str] | Sequence[Sequence[str]] | str


def as_html(*parts: Part) -> str:
    """The same for a notebook: mappings as `table`, rows as `columns`, texts as they are."""
    return "\n".join(_as_html(part) for part in parts if part)


def _as_html(part: Part) -> str:
    if isinstance(part, str):
        return f"<pre>{html.escape(part)}</pre>"
    if isinstance(part, Mapping):
        rows = [_cell("th", name) + _cell("td", text) for name, text in part.items()]
    else:
        rows = [
            "".join(_cell("td" if nth else "th", cell) for cell in row)
            for nth, row in enumerate(part)
        ]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(kind: str, text: str) -> str:
    indent = "&emsp;" if text.startswith(" ") else ""
    lines = [html.escape(line.strip()) for line in text.splitlines()]
    return f'<{kind} style="text-align:left">{indent}{"<br>".join(lines)}</{kind}>'
