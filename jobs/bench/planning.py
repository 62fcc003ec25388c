"""Planning a large job costs seconds and little more than the prompts' own memory.

Proves, on prompts of the usual kind (Zipf-weighted system prompts, two levels of sharing, some
duplicates, shuffled), how long each planning stage takes and how much memory the whole needs,
everything counted: interpreter, imports, token ids. Each of three measurements runs in a fresh
process, so no stage finds memory or caches that an earlier one left; the table has the medians.

    python jobs/bench/planning.py --prompts 100000 --tokens 800
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import click
import numpy as np
from record import append_results, as_table

from batchpipe.planner.duplicates import collapse
from batchpipe.planner.plan import make_plan
from batchpipe.planner.prefix_tree import build
from batchpipe.planner.request import Prompts, Sampling

MIB = 1 << 20
MEASUREMENTS = 3
SYSTEM_PROMPTS, TEMPLATES = 5, 50  # a template is a system prompt and more
DUPLICATED = 0.02  # of all prompts
VOCABULARY = 150_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of all stages in one process."""

    stage_seconds: dict[str, float]
    outcome: str  # what the stages made, in a line
    token_mib: float
    loaded_mib: float  # resident before the first stage: interpreter, imports, token ids
    peak_mib: float


def stages(prompts: Prompts, outcome: list[str]) -> Iterator[str]:
    """Plans the job, giving the name of each stage as it ends.

    The first two are what `make_plan` spends most on; the last does everything.
    """
    samplings = [Sampling(max_tokens=64)] * len(prompts)
    kept = prompts.take(collapse(prompts, samplings).kept)
    yield "duplicates"
    build(kept)
    yield "tree"
    plan = make_plan(prompts, samplings)
    yield "whole plan"
    outcome.append(
        f"{plan.rows:,} rows, {len(plan.prompts):,} distinct; of their {plan.row_prompt_tokens:,} "
        f"tokens {plan.shareable_prompt_tokens / plan.row_prompt_tokens:.1%} shareable; "
        f"{len(plan.tree.parent):,} nodes"
    )


def make(folder: Path, prompts: int, tokens: int) -> None:
    """Writes prompts of ``tokens`` tokens on average, about two thirds of them shared."""
    rng = np.random.default_rng(0)
    system_prompts = [
        rng.integers(VOCABULARY, size=max(1, tokens // 4), dtype=np.int32)
        for _ in range(SYSTEM_PROMPTS)
    ]
    templates = []
    for template in range(TEMPLATES):
        more = rng.integers(VOCABULARY, size=rng.integers(tokens // 5, tokens), dtype=np.int32)
        templates.append(np.concatenate([system_prompts[template % SYSTEM_PROMPTS], more]))
    weights = 1 / np.arange(1, TEMPLATES + 1)
    choice = rng.choice(TEMPLATES, size=prompts, p=weights / weights.sum())
    shared = np.array([len(template) for template in templates])[choice]
    room = max(0, tokens - int(shared.mean()))
    own = rng.integers(1, 2 * room + 2, size=prompts)
    offsets = np.append(0, np.cumsum(shared + own))
    token_ids = rng.integers(VOCABULARY, size=int(offsets[-1]), dtype=np.int32)
    for row, begin in enumerate(offsets[:-1]):
        token_ids[begin : begin + shared[row]] = templates[choice[row]]
    indices = np.arange(prompts)
    repeats = rng.choice(prompts, size=int(prompts * DUPLICATED), replace=False)
    indices[repeats] = rng.choice(prompts, size=len(repeats))
    made = Prompts(token_ids, offsets[:-1], offsets[1:]).take(indices)
    token_ids, offsets = made.end_to_end("i4")
    np.save(folder / "token_ids.npy", token_ids)
    np.save(folder / "offsets.npy", offsets)


def measure(folder: Path) -> Measured:
    """Seconds of each stage and the peak memory of this process, which must be a fresh one."""
    offsets = np.load(folder / "offsets.npy")
    job = Prompts(np.load(folder / "token_ids.npy"), offsets[:-1], offsets[1:])
    token_mib = job.token_ids.nbytes / MIB
    loaded_mib = peak_resident_mib()
    seconds: dict[str, float] = {}
    outcome: list[str] = []
    began = perf_counter()
    for stage in stages(job, outcome):
        seconds[stage] = perf_counter() - began
        began = perf_counter()
    return Measured(seconds, outcome[0], token_mib, loaded_mib, peak_resident_mib())


def peak_resident_mib() -> float:
    """The most memory this process ever had; Linux counts it in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def figures(runs: list[Measured]) -> dict[str, float]:
    """The medians of the runs, by name and unit."""
    token_mib = runs[0].token_mib
    peak_mib = statistics.median(run.peak_mib for run in runs)
    seconds = {
        f"{stage}, s": round(statistics.median(run.stage_seconds[stage] for run in runs), 3)
        for stage in runs[0].stage_seconds
    }
    return seconds | {
        "token ids, MiB": round(token_mib, 1),
        "loaded before planning, MiB": round(statistics.median(r.loaded_mib for r in runs), 1),
        "peak, MiB": round(peak_mib, 1),
        "peak / token ids": round(peak_mib / token_mib, 3),
    }


@click.command()
@click.option("--prompts", type=int, default=100_000, show_default=True, help="How many.")
@click.option("--tokens", type=int, default=800, show_default=True, help="Of each, on average.")
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(prompts: int, tokens: int, results: Path | None) -> None:
    """Measure the planning of made prompts."""
    # One new process a task. The data too is made in one: on Linux a process counts its parent's
    # memory at the start as its own peak, so this one stays small.
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as name, pool:
        folder = Path(name)
        pool.submit(make, folder, prompts, tokens).result()
        runs = [pool.submit(measure, folder).result() for _ in range(MEASUREMENTS)]
    measured = figures(runs)
    print(runs[0].outcome)
    print(as_table([{"figure": name, "median": f"{value:g}"} for name, value in measured.items()]))
    if results is not None:
        append_results(results, {"prompts": prompts, "tokens": tokens}, [measured])


if __name__ == "__main__":
    main()
