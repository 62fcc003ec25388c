"""Benchmark figures as a printed table and as a JSON record with the machine they belong to."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("batchpipe", "torch", "transformers", "tokenizers", "pyarrow", "numpy")


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under their keys, numbers to the right; a key that a row lacks is a dash."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([str(row.get(name, "-")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first, *others = widths
    return "\n".join(
        "  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip()
        for line in cells
    )


def append_results(
    file: Path,
    job: Mapping[str, Any],
    figures: Sequence[Mapping[str, Any]],
) -> None:
    """The JSON list in ``file`` ends with this measurement, its date, machine and versions."""
    records = json.loads(file.read_text()) if file.exists() else []
    records.append(
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in PACKAGES},
            "job": dict(job),
            "figures": [dict(row) for row in figures],
        }
    )
    file.write_text(json.dumps(records, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and the thread setting that all contenders inherit."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "system": platform.platform(),
    }


def _processor() -> str:
    """The processor's name: Linux tells it in /proc alone."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
