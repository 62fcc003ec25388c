"""What reading a shared prefix once is worth to the decodes below it.

    python jobs/bench/shared_decode.py --threads 2

Rows decode below prefixes of 2,000 tokens, each with 24 to 72 tokens of its own: the attention of
one such step as the engine lays it out, against the same rows, keys and kernels where every row has
its whole context to itself (`decode_step.py`). Both give the same results, within rounding. On the
CPU the compiled kernel and the path through torch, each in a process of its own; on a GPU, if there
is one, the Triton kernels. Both kinds of step take turns, layer after layer, so that keys come from
memory and not from a cache. Milliseconds are those of a layer, ratios those of medians.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from models import SHAPES
from record import append_results, as_table
from whole_process import measure

DECODE_STEP = Path(__file__).with_name("decode_step.py")
CROWDS = ("1x1", "1x4", "1x16", "1x64", "4x16", "16x4")  # groups, and the rows of each
WAYS = {"native": ("cpu", {}), "torch": ("cpu", {"BATCHPIPE_NATIVE": "0"}), "triton": ("cuda", {})}
LEAST_RATIO, ASKED_DEGREE = 2.0, 16


def measure_way(way: str, shape: str, dtype: str, crowds: list[str], threads: int) -> list[Any]:
    """A row for each crowd; none where this machine lacks the way."""
    device, extra = WAYS[way]
    words = [sys.executable, str(DECODE_STEP), shape, dtype, device, *crowds]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        finished = measure(words, Path(name), {"OMP_NUM_THREADS": str(threads), **extra})
    rows = [row for row in finished.summary["figures"] if row["path"] == way]
    return [row | {"peak_MB": round(finished.peak_bytes / 1e6)} for row in rows]


def verdict(rows: list[dict[str, Any]]) -> str:
    """How the asked ratio stands at the asked degree, in the worst of these rows."""
    asked = [row for row in rows if row["degree"] == ASKED_DEGREE]
    if not asked:
        return f"no rows of degree {ASKED_DEGREE}, at which {LEAST_RATIO:g} times is asked"
    worst = min(asked, key=lambda row: row["ratio"])
    return (
        f"degree {ASKED_DEGREE}: {worst['ratio']:.2f} times as fast at least "
        f"({worst['path']}, {worst['dtype']}); {LEAST_RATIO:g} times is asked"
    )


@click.command()
@click.option("--shape", type=click.Choice(sorted(SHAPES)), default="llama-25m", show_default=True)
@click.option("--crowds", default=",".join(CROWDS), show_default=True, help="GROUPSxDEGREE each.")
@click.option("--threads", type=click.IntRange(min=1), help="[default: cores]")
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(shape: str, crowds: str, threads: int | None, results: Path | None) -> None:
    """Time one decode step's attention with prefixes shared and without."""
    threads = threads or len(os.sched_getaffinity(0))
    figures = []
    for way in WAYS:
        for dtype in ("float32", "bfloat16"):
            found = measure_way(way, shape, dtype, crowds.split(","), threads)
            if not found:
                print(f"{way}, {dtype}: not on this machine", file=sys.stderr)
            figures += found
    print(f"{as_table(figures)}\n{verdict(figures)}")
    if results is not None:
        append_results(results, {"shape": shape, "threads": threads}, figures)


if __name__ == "__main__":
    main()
