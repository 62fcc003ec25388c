"""The findings as one HTML page that needs nothing beside it.

Whatever a run holds of prompts, answers and names is foreign text: templates escape all of it, and
the page's own policy lets the browser run no script but the one that came with it.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import batchpipe
from batchpipe.report.facts import (
    Figures,
    figures,
    headline,
    model_name,
    parameters,
    run_name,
    session_lines,
    slow_rows,
)
from batchpipe.report.findings import Findings
from batchpipe.report.icicle import icicle
from batchpipe.report.promises import promises
from batchpipe.report.scale import axis
from batchpipe.report.time_plots import timelines

TEMPLATES = Path(__file__).parent / "templates"
# Control characters that HTML has no room for.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
EMPTY = "–"


def render(found: Findings) -> str:
    """The page, as text that UTF-8 can hold."""
    return filled("page.html", _context(found))


def filled(template: str, context: Mapping[str, Any]) -> str:
    """The page of this template, with all that a page needs beside its own."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(FILTERS)
    script = (TEMPLATES / "page.js").read_text()
    page = environment.get_template(template).render(
        **context,
        style=(TEMPLATES / "page.css").read_text(),
        script=script,
        script_digest=b64encode(sha256(script.encode()).digest()).decode(),
        version=batchpipe.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )
    return page.encode("utf-8", "backslashreplace").decode()


def _context(found: Findings) -> dict[str, Any]:
    counted: Figures = figures(found)
    return {
        "found": found,
        "status": found.status,
        "figures": counted,
        "name": run_name(found),
        "model": model_name(found),
        "headline": headline(found),
        "promises": promises(found.sessions),
        "timelines": timelines(found.sessions),
        "icicle": icicle(found.sessions),
        "histograms": _histograms(found),
        "slow_rows": slow_rows(found),
        "parameters": parameters(found),
        "session_lines": session_lines(found),
        "workers": (found.summary or {}).get("workers") or (),
        "duplicated_tokens": (found.summary or {}).get("duplicated_prompt_tokens", 0),
        "versions": found.sessions[-1].versions if found.sessions else {},
    }


def _histograms(found: Findings) -> list[dict[str, Any]]:
    kinds = {"Prompt": found.prompt_lengths, "Answer": found.answer_lengths}
    drawn = []
    for name, lengths in kinds.items():
        bins = lengths.bins()
        if bins:
            y = axis(max(each.rows for each in bins), ticks=3)
            quantiles = lengths.quantiles()
            drawn.append({"name": name, "bins": bins, "y": y, "quantiles": quantiles})
    return drawn


# ---- how figures read --------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A whole number with thousands apart, or a few digits that count."""
    if value is None:
        return EMPTY
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def short(value: float) -> str:
    """For a tick of an axis: 1.2M."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.4g}{letter}"
    return f"{value:.4g}"


def percent(share: float | None) -> str:
    """A share of a whole."""
    return EMPTY if share is None or not math.isfinite(share) else f"{share:.1%}"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes, hours and days where there are many."""
    if seconds is None:
        return EMPTY
    for unit_seconds, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.1f} {unit}"
    digits = 2 if seconds < 1 else 3
    return f"{seconds:.{digits}g} s" if seconds < 100 else f"{seconds:.0f} s"


def size(size_bytes: float) -> str:
    """Bytes in the unit that they fill."""
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= power:
            return f"{size_bytes / power:.3g} {unit}"
    return f"{size_bytes:.0f} bytes"


FILTERS: Mapping[str, Any] = {
    "number": number,
    "short": short,
    "percent": percent,
    "duration": duration,
    "size": size,
}


def _shown(value: Any) -> Any:
    """What a template prints, without what a page cannot show."""
    if type(value) is str:
        return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value)
    return value
