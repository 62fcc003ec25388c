"""What a run takes whose job is large: a million rows, or more text than its memory holds.

    python jobs/bench/volume.py million
    python jobs/bench/volume.py large

A stub stands in place of the forward pass; all else is as in any run.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from killing import session
from record import append_results, as_table
from stub import use_stub

from batchpipe.demo.prompt import MODEL_DIR

RESULTS = Path(__file__).with_name("results") / "volume.json"
MAX_PEAK_BYTES = 2 << 30  # beyond the prompts' tokens
MAX_JOURNAL_SHARE = 0.05
WORDS = ("the", "box", "came", "late", "broken", "red", "new", "never", "support", "refund")


@click.group()
def commands() -> None:
    """What a run takes of memory and time where its model takes none."""


@commands.command()
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--lines", is_flag=True, help="JSON lines instead of Parquet.")
@click.option("--record/--no-record", default=False)
def million(rows: int, lines: bool, record: bool) -> None:
    """A run with a stub in place of the forward pass: peak memory, and the journal's time."""
    ending = "jsonl" if lines else "parquet"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = write_many(folder / f"job.{ending}", rows)
        out, figures = folder / f"out.{ending}", folder / "figures.json"
        command = ["run", job, "-m", MODEL_DIR, "-o", out, "--max-tokens", 8]
        command += ["--kv-memory", "2GB", "--step-tokens", 8192]
        began = time.monotonic()
        stub = partial(use_stub, figures)
        ran = session(command, folder, flush_seconds=5.0, before=stub)
        assert ran.code == 0, (folder / "said").read_text()[-2000:]
        wall_seconds = time.monotonic() - began
        peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        summary = json.loads((Path(f"{out}.run") / "summary.json").read_text())
        complete = rows_in(out) == rows == summary["succeeded"]
        told = json.loads(figures.read_text())
        size_bytes = os.path.getsize(job)
    token_bytes = 4 * summary["prompt_tokens"]
    figure = {
        "rows": rows,
        "complete": complete,
        "input MB": size_bytes >> 20,
        "tokens MB": token_bytes >> 20,
        "peak MB": peak_bytes >> 20,
        "beyond tokens MB": (peak_bytes - token_bytes) >> 20,
        "wall s": round(wall_seconds, 1),
        "plan s": summary["plan_seconds"],
        "answer s": summary["run_seconds"],
        "journal s": round(told["journal_seconds"], 2),
        "journal share": f"{told['journal_seconds'] / wall_seconds:.1%}",
        "parts": told["parts"],
    }
    click.echo(as_table([figure]))
    if record:
        append_results(RESULTS, {"kind": "a million rows", "format": ending}, [figure])
    small = peak_bytes - token_bytes < MAX_PEAK_BYTES
    fast = told["journal_seconds"] < MAX_JOURNAL_SHARE * wall_seconds
    sys.exit(0 if complete and small and fast else 1)


@commands.command()
@click.option("--rows", default=60_000, show_default=True)
@click.option("--record/--no-record", default=False)
def large(rows: int, record: bool) -> None:
    """A job with several times the text that its process ever holds; the stub answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job, out = write_documents(folder / "job.parquet", rows), folder / "out.parquet"
        command = ["run", job, "-m", MODEL_DIR, "-o", out, "--max-tokens", 2]
        command += ["--kv-memory", "1GB", "--step-tokens", 8192]
        stub = partial(use_stub, folder / "figures.json")
        ran = session(command, folder, flush_seconds=5.0, before=stub)
        assert ran.code == 0, (folder / "said").read_text()[-2000:]
        summary = json.loads((Path(f"{out}.run") / "summary.json").read_text())
        table = pq.ParquetFile(job).metadata
        groups = map(table.row_group, range(table.num_row_groups))
        text_bytes = sum(group.total_byte_size for group in groups)
        complete = rows_in(out) == rows == summary["succeeded"]
    figure = {
        "rows": rows,
        "complete": complete,
        "text and ids MB": text_bytes >> 20,
        "tokens MB": 4 * summary["prompt_tokens"] >> 20,
        "anonymous memory MB": ran.peak_anonymous_bytes >> 20,
        "wall s": round(ran.seconds, 1),
    }
    click.echo(as_table([figure]))
    if record:
        append_results(RESULTS, {"kind": "larger than memory"}, [figure])
    sys.exit(0 if complete and 2 * ran.peak_anonymous_bytes < text_bytes else 1)


def write_documents(path: Path, rows: int) -> Path:
    """Questions of token ids on one of 20 documents, beside letters that only pass through."""
    draw = np.random.default_rng(1)
    documents = draw.integers(300, 1_000, (20, 1_900), dtype=np.int32)
    kinds = [("prompt_token_ids", pa.list_(pa.int32())), ("letter", pa.large_string())]
    with pq.ParquetWriter(path, pa.schema(kinds)) as writer:
        for first in range(0, rows, 1000):
            some = range(first, min(rows, first + 1000))
            questions = draw.integers(300, 1_000, (len(some), 20), dtype=np.int32)
            ids = [np.append(documents[row % 20], questions[row - first]) for row in some]
            letters = [draw.bytes(20_000).hex() for _ in some]
            arrays = [
                pa.array(each, kind) for each, (_, kind) in zip((ids, letters), kinds, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, names=[name for name, _ in kinds]))
    return path


def write_many(path: Path, rows: int) -> Path:
    """Short reviews under one of 100 instructions, written a piece at a time."""
    draw = random.Random(1)
    schema = pa.schema([("request_id", pa.string()), ("prompt", pa.string()), ("day", pa.date32())])
    writer = pq.ParquetWriter(path, schema) if path.suffix == ".parquet" else None
    with path.open("ab") as stream:
        for first in range(0, rows, 50_000):
            span = range(first, min(rows, first + 50_000))
            prompts = [
                f"Task {row % 100}: say in one word whether the customer is content, and answer "
                f"with yes or no only.\n\n{' '.join(draw.choices(WORDS, k=30))} {row}"
                for row in span
            ]
            if writer is None:
                for row, prompt in zip(span, prompts, strict=True):
                    line = {"request_id": f"r{row}", "prompt": prompt, "day": "2026-01-01"}
                    stream.write(json.dumps(line).encode() + b"\n")
            else:
                days = pa.array([20_000 + row % 400 for row in span], pa.int32()).cast(pa.date32())
                columns = [pa.array([f"r{row}" for row in span]), pa.array(prompts), days]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    if writer is not None:
        writer.close()
    return path


def rows_in(out: Path) -> int:
    """Rows of a results file, counted from the file."""
    if out.suffix == ".parquet":
        return int(pq.ParquetFile(out).metadata.num_rows)
    with out.open("rb") as stream:
        return sum(1 for _ in stream)


if __name__ == "__main__":
    commands()
