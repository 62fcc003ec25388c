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


def print_table(dtype: str, rows: Sequence[Mapping[str, Any]], shares: Mapping[str, float]) -> None:
    """One dtype's table stands on stdout, and below it which outputs agree."""
    base = next((row for row in rows if row["contender"] == "batchpipe"), None)
    heads = (
        "contender        wall s   tokens/s   peak MB   ratio   plan s   load s    run s  reused"
    )
    print(f"\n{dtype}\n{heads}")
    for row in rows:
        ratio = f"{row['wall_seconds'] / base['wall_seconds']:.2f}x" if base else "-"
        reused = f"{row['reused_share']:.1%}" if "reused_share" in row else "-"
        print(
            f"{row['contender']:<15}{row['wall_seconds']:>8.2f}{row['tokens_per_second']:>11,.0f}"
            f"{row['peak_bytes'] / 1e6:>10,.0f}{ratio:>8}{_seconds(row, 'plan_seconds')}"
            f"{_seconds(row, 'load_seconds')}{_seconds(row, 'run_seconds')}{reused:>8}"
        )
    for pair, share in shares.items():
        print(f"rows with equal text, {pair}: {share:.1%}")


def _seconds(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:>9.2f}" if key in row else f"{'-':>9}"


def append_results(
    file: Path,
    job: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    shares: Mapping[str, float],
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
            "figures": [dict(row) for row in rows],
            "equal_text": dict(shares),
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
