"""The benchmark's workloads: which part of a prompt file is one job, and how long answers are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class Workload:
    """A cut of a prompt file that the smallest model answers in seconds."""

    rows: int
    neighbours: int  # rows drawn together: as many as share more than the file's common beginning
    max_tokens: int


WORKLOADS = {
    "bbh_cot": Workload(500, 1, 32),  # 27 few-shot prefixes
    "xquad_docqa": Workload(600, 5, 16),  # five questions a document
    "arena_judge": Workload(240, 4, 32),  # two models, two orders of their answers
    "arena_open": Workload(160, 1, 64),  # nothing to share
    "tot_game24": Workload(1000, 20, 16),  # most rows are duplicates
    "tau_airline": Workload(120, 12, 16),  # conversations, each prompt extends the last
}


def usual_files(prompts: Sequence[Path]) -> list[Path]:
    """These files and those of the usual workloads beside them: what tokenizers learn from."""
    folders = {path.parent for path in prompts}
    usual = {folder / f"{name}.parquet" for folder in folders for name in WORKLOADS}
    return sorted({*prompts, *filter(Path.exists, usual)})


def write_cut(source: Path, rows: int, neighbours: int, seed: int, job: Path) -> int:
    """A seeded, shuffled sample lies in ``job``: request_id and prompt alone. Returns its rows.

    Runs of rows that are neighbours in sorted order are drawn together: single rows of a large
    file would have lost whom they share with.
    """
    prompts = sorted(pq.read_table(source, columns=["prompt"])["prompt"].to_pylist())
    if not 1 <= rows <= len(prompts):
        raise click.UsageError(f"{rows} rows do not fit {source}, which has {len(prompts)}")
    draw = random.Random(seed)
    starts = range(0, len(prompts), neighbours)
    runs = draw.sample(
        starts, min(len(starts), -(-rows // neighbours) + 1)
    )  # the last may be short
    chosen = [prompt for start in runs for prompt in prompts[start : start + neighbours]][:rows]
    draw.shuffle(chosen)
    ids = [f"request-{row}" for row in range(len(chosen))]
    pq.write_table(pa.table({"request_id": ids, "prompt": chosen}), job)
    return len(chosen)
