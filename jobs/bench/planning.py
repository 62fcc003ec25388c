"""Planning a million prompts, from token ids on disk to a plan on disk, takes seconds.

Proves, on prompts of the usual kind (Zipf-weighted system prompts, two levels of sharing, some
duplicates, shuffled, four lengths of answer), how long each stage takes, that the cost grows with
the tokens and no faster, and how much memory the whole process needs, everything counted. Each
measurement runs in a fresh process, so no stage finds memory or caches that an earlier one left;
the table has the medians.

    python jobs/bench/planning.py --prompts 10000 --prompts 100000 --prompts 1000000 --tokens 500
"""

from __future__ import annotations

import json
import resource
import shutil
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
import pyarrow as pa
import pyarrow.parquet as pq
from record import append_results, as_table

from batchpipe.config import JobOptions
from batchpipe.demo.prompt import MODEL_DIR
from batchpipe.job.hidden_torch import hide_torch
from batchpipe.job.language import load_config, load_language, shape_of
from batchpipe.job.prepare import open_job, prepare
from batchpipe.planner.duplicates import collapse
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan_file import packed_plan
from batchpipe.planner.planning import Setting, in_order, make_plan
from batchpipe.planner.tree.prefix_tree import build
from batchpipe.rows.atomic import written_whole

MB = 1e6
SYSTEM_PROMPTS, TEMPLATES = 5, 50  # a template is a system prompt and more
DUPLICATED = 0.02  # of all prompts
VOCABULARY = 150_000
CONTEXT_TOKENS = 1 << 20
ANSWER_TOKENS = (16, 64, 256, 1024)
PROMPTS_TOGETHER = 50_000  # made and written at once: making needs little memory

KV_BLOCKS, STEP_TOKENS = 1 << 16, 8192  # of the simulated machine
TOTAL = ("open", "prepare", "plan", "save")  # what a user waits for; the others are parts of plan


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of all stages in one process."""

    tokens: int
    seconds: dict[str, float]  # by stage
    outcome: str  # what the stages made, in a line
    peak_mb: float


def stages(folder: Path, outcome: list[str]) -> Iterator[str]:
    """Plans the job in the folder, giving the name of each stage as it ends."""
    options = JobOptions(input=str(folder / "job.parquet"), model=str(folder / "model"))
    hide_torch()
    config = load_config(options)
    language = load_language(options, config)
    cost = StepCost(shape_of(options, config), MACHINES["h200"], "bfloat16")
    setting = Setting(cost, KV_BLOCKS, STEP_TOKENS)
    yield "start"
    source, template = open_job(options)
    yield "open"
    job = prepare(options, source, template, language)
    yield "prepare"
    kept = job.prompts.take(collapse(job.prompts, job.samplings).kept)
    yield "duplicates"
    build(kept)
    yield "tree"
    plan = make_plan(job.prompts, job.samplings, order="planned", setting=setting)
    yield "plan"
    in_order(plan, plan.policy, setting)
    yield "chosen order"
    with written_whole(str(folder / "plan.parquet")) as stream:
        stream.write(packed_plan(plan, {"policy": plan.policy}))
    yield "save"
    outcome.append(
        f"{plan.rows:,} rows, {len(plan.prompts):,} distinct; of their {plan.row_prompt_tokens:,} "
        f"tokens {plan.shareable_prompt_tokens / plan.row_prompt_tokens:.1%} shareable; "
        f"{len(plan.tree.parent):,} nodes; {plan.policy}; {len(job.faults)} faults"
    )


def make(folder: Path, prompts: int, tokens: int) -> None:
    """Writes a job of prompts of ``tokens`` tokens on average, about two thirds of them shared."""
    rng = np.random.default_rng(0)
    templates = _templates(rng, tokens)
    schema = pa.schema({"prompt_token_ids": pa.list_(pa.int32()), "max_tokens": pa.int32()})
    with pq.ParquetWriter(folder / "job.parquet", schema) as writer:
        for begin in range(0, prompts, PROMPTS_TOGETHER):
            count = min(PROMPTS_TOGETHER, prompts - begin)
            ids = _prompts(rng, templates, count, tokens)
            answers = pa.array(rng.choice(ANSWER_TOKENS, size=count), pa.int32())
            writer.write_table(pa.table([ids, answers], schema=schema))
    model = folder / "model"
    shutil.copytree(MODEL_DIR, model, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "config.json").read_text())
    config |= {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS}
    (model / "config.json").write_text(json.dumps(config))


def _templates(rng: np.random.Generator, tokens: int) -> list[np.ndarray]:
    system_prompts = [
        rng.integers(VOCABULARY, size=max(1, tokens // 4), dtype=np.int32)
        for _ in range(SYSTEM_PROMPTS)
    ]
    templates = []
    for template in range(TEMPLATES):
        length = rng.integers(tokens // 5, max(2, 2 * tokens // 3))
        more = rng.integers(VOCABULARY, size=length, dtype=np.int32)
        templates.append(np.concatenate([system_prompts[template % SYSTEM_PROMPTS], more]))
    return templates


def _prompts(
    rng: np.random.Generator, templates: list[np.ndarray], count: int, tokens: int
) -> pa.Array:
    """So many prompts, each a template and tokens of its own, with a few repeated."""
    weights = 1 / np.arange(1, TEMPLATES + 1)
    weights /= weights.sum()
    sizes = np.array([len(template) for template in templates])
    choice = rng.choice(TEMPLATES, size=count, p=weights)
    room = max(0, tokens - int((sizes * weights).sum()))
    lengths = sizes[choice] + rng.integers(1, 2 * room + 2, size=count)
    offsets = np.append(0, np.cumsum(lengths))
    token_ids = rng.integers(VOCABULARY, size=int(offsets[-1]), dtype=np.int32)
    for begin, template in zip(offsets[:-1].tolist(), choice.tolist(), strict=True):
        token_ids[begin : begin + sizes[template]] = templates[template]
    made = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(token_ids))
    indices = np.arange(count)
    repeats = rng.choice(count, size=int(count * DUPLICATED), replace=False)
    indices[repeats] = rng.choice(count, size=len(repeats))
    return made.take(pa.array(indices))


def measure(folder: Path) -> Measured:
    """Seconds of each stage and the peak memory of this process, which must be a fresh one."""
    seconds: dict[str, float] = {}
    outcome: list[str] = []
    began = perf_counter()
    for stage in stages(folder, outcome):
        seconds[stage] = perf_counter() - began
        began = perf_counter()
    return Measured(_tokens(folder), seconds, outcome[0], peak_resident_mb())


def peak_resident_mb() -> float:
    """The most memory this process ever had; Linux counts it in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def _tokens(folder: Path) -> int:
    ids = pq.ParquetFile(folder / "job.parquet").metadata
    groups = range(ids.num_row_groups)
    return sum(ids.row_group(group).column(0).num_values for group in groups)


def figures(prompts: int, runs: list[Measured]) -> dict[str, float]:
    """The medians of the runs, by name and unit."""
    stage_seconds = {
        stage: statistics.median(run.seconds[stage] for run in runs) for stage in runs[0].seconds
    }
    tokens = runs[0].tokens
    choosing = stage_seconds["plan"] - stage_seconds["duplicates"] - stage_seconds["tree"]
    total = statistics.median(sum(run.seconds[stage] for stage in TOTAL) for run in runs)
    peak_mb = statistics.median(run.peak_mb for run in runs)
    return {
        "prompts": prompts,
        "tokens": tokens,
        **{f"{stage}, s": round(seconds, 2) for stage, seconds in stage_seconds.items()},
        "choosing the order, s": round(choosing, 2),  # simulated on a sample: the same for all
        "total, s": round(total, 2),
        "total without choosing, s per M tokens": round((total - choosing) / tokens * 1e6, 4),
        "tree, M tokens/s": round(tokens / stage_seconds["tree"] / 1e6, 1),
        "peak, MB": round(peak_mb),
        "peak / token ids": round(peak_mb * MB / (4 * tokens), 2),
    }


def measured_size(prompts: int, tokens: int, measurements: int) -> dict[str, float]:
    """The figures for one size of job."""
    # One new process a task. The data too is made in one: on Linux a process counts its parent's
    # memory at the start as its own peak, so this one stays small.
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1)
    with tempfile.TemporaryDirectory() as name, pool:
        folder = Path(name)
        pool.submit(make, folder, prompts, tokens).result()
        runs = [pool.submit(measure, folder).result() for _ in range(measurements)]
    print(runs[0].outcome, flush=True)
    return figures(prompts, runs)


@click.command()
@click.option(
    "--prompts", type=int, multiple=True, default=(100_000,), show_default=True, help="How many."
)
@click.option("--tokens", type=int, default=500, show_default=True, help="Of each, on average.")
@click.option("--measurements", type=int, default=3, show_default=True, help="Of each size.")
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(prompts: tuple[int, ...], tokens: int, measurements: int, results: Path | None) -> None:
    """Measure the planning of made prompts."""
    measured = [measured_size(count, tokens, measurements) for count in prompts]
    names = list(measured[0])
    columns = [f"{count:,} prompts" for count in prompts]
    print(
        as_table(
            [
                {"figure": name}
                | {c: f"{m[name]:,}" for c, m in zip(columns, measured, strict=True)}
                for name in names[1:]
            ]
        )
    )
    if results is not None:
        append_results(results, {"prompts": list(prompts), "tokens": tokens}, measured)


if __name__ == "__main__":
    main()
