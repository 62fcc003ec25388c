"""What dividing a job over many workers costs, in simulation: balance and duplicated prefixes.

    python jobs/bench/distributed.py --trace trace_mooncake_conversation.parquet

Times are the planner's: Llama-3.1-8B on an A100, compute of distinct tokens and reads of decodes,
one after the other. No model runs and no step is simulated. Three kinds of jobs: templates of
Zipf popularity, BlendServe's traces #1 to #4, and recorded lengths. ``bound`` is an equal part of
one worker's time, or the heaviest prompt if that takes longer.

**divided** sets `divide` with stealing against routers that do not know what prompts cost, all on
equal workers and with answers as long as expected. The routers' workers compute each prefix once,
whatever their memory. Bars: a makespan of at most 1.1 of the bound, at most 5 % of the distinct
prompt tokens computed twice, both less than each rival's. A hash of the beginning sends what begins
alike to one worker: it may duplicate nothing at all, which is not to be beaten, and is left out of
the second comparison where it does so.

**stolen** has workers of speeds drawn from 0.5 to 1.5, and answers that are a lognormal factor
(sigma 0.5) for each template and request away from what was expected: the same division with
stealing and without. The bound is then that of the actual work at the sum of all speeds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from contenders import plan_of
from planner_tables import on_machine
from record import append_results, as_table
from routers import ROUTERS, routed
from traces import MIXES, blendserve, zipf

from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting
from batchpipe.planner.shards.assign import Division, divide
from batchpipe.planner.shards.simulate import simulate
from batchpipe.planner.shards.work import Work, work_of
from batchpipe.rows.trace import read_trace

WORKERS = (2, 4, 8, 16, 32, 64)
SHARDS_PER_WORKER = 4
MOST_OF_BOUND, MOST_DUPLICATED = 1.1, 0.05
SLOWEST, FASTEST, ANSWER_SIGMA = 0.5, 1.5, 0.5

Row = dict[str, Any]


def jobs(requests: int, traces: Sequence[Path]) -> Iterator[tuple[str, Plan]]:
    """The jobs, one at a time in memory."""
    yield "Zipf 1.0", plan_of(zipf(requests))
    yield "Zipf 1.5", plan_of(zipf(requests, exponent=1.5))
    for number in MIXES:
        yield f"BlendServe #{number}", plan_of(blendserve(number, requests))
    for path in traces:
        yield path.stem, plan_of(read_trace(str(path), limit=requests))


# ---- on equal workers --------------------------------------------------------------------------


def divided(plan: Plan, setting: Setting, division: Division) -> tuple[Row, list[str]]:
    """The division beside its rivals, and a sentence for each bar that it misses."""
    work, workers = division.work, len(division.queues)
    run = simulate(division)
    bound = work.bound_seconds(workers)
    ours = (run.makespan_seconds / bound, run.duplicated_tokens / work.tree.computed_tokens)
    row: Row = {
        "workers": workers,
        "bound s": round(bound, 2),
        "shards": run.shards,
        "stolen": run.stolen_shards,
        "x bound": round(ours[0], 4),
        "twice": f"{ours[1]:.3%}",
    }
    missed = []
    if ours[0] > MOST_OF_BOUND:
        missed.append(f"the makespan is {ours[0]:.3f} of the bound, above {MOST_OF_BOUND}")
    if ours[1] > MOST_DUPLICATED:
        missed.append(
            f"{ours[1]:.2%} of the tokens are computed twice, above {MOST_DUPLICATED:.0%}"
        )
    cost = plan.cost(setting.cost)
    for name, router in ROUTERS.items():
        seconds, tokens = routed(plan, cost, router(plan, workers), workers)
        theirs = (max(seconds) / bound, tokens / work.tree.computed_tokens)
        row |= {name: f"{theirs[0]:.3f} {theirs[1]:.3%}"}
        if theirs[0] <= ours[0]:
            missed.append(f"{name} has a makespan of {theirs[0]:.4f}, not above {ours[0]:.4f}")
        if 0 < theirs[1] <= ours[1]:
            missed.append(f"{name} computes {theirs[1]:.4%} twice, not above {ours[1]:.4%}")
    return row, [f"{workers} workers: {each}" for each in missed]


# ---- on unequal workers, with answers of other lengths -----------------------------------------


def surprised(plan: Plan, setting: Setting, seed: int) -> Work:
    """The same prompts with answers a factor away from what was expected."""
    rng = np.random.default_rng(seed)
    of_group = rng.normal(0, ANSWER_SIGMA, len(plan.group_keys))[plan.groups]
    factor = np.exp((of_group + rng.normal(0, ANSWER_SIGMA, len(plan.prompts))) / 2**0.5)
    answers = np.maximum(1, np.rint(plan.output_tokens * factor)).astype(np.int64)
    return work_of(replace(plan, output_tokens=answers), setting.cost)


def stolen(division: Division, actual: Work, seed: int) -> Row:
    """The division played with stealing, and as it would end without."""
    workers = len(division.queues)
    speeds = np.random.default_rng(seed).uniform(SLOWEST, FASTEST, workers).tolist()
    run = simulate(division, actual, speeds)
    bound = max(actual.total_seconds / sum(speeds), actual.longest_seconds() / max(speeds))
    fixed = [
        actual.together_seconds([shard.ranks for shard in queue]) / speed
        for queue, speed in zip(division.queues, speeds, strict=True)
    ]
    return {
        "workers": workers,
        "bound s": round(bound, 2),
        "without": round(max(fixed) / bound, 3),
        "x bound": round(run.makespan_seconds / bound, 3),
        "twice": f"{run.duplicated_tokens / actual.tree.computed_tokens:.3%}",
        "shards": run.shards,
        "stolen": run.stolen_shards,
        "stolen work": f"{run.stolen_seconds / division.work.total_seconds:.1%}",
        "idle": f"{run.idle_share:.1%}",
    }


@click.command()
@click.option(
    "--trace",
    "traces",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A length trace (input_len, output_len, hash_ids).",
)
@click.option("--requests", type=int, default=20_000, show_default=True, help="Of each job.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of speeds and surprises.")
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(traces: tuple[Path, ...], requests: int, seed: int, results: Path | None) -> None:
    """Measure divisions in simulation; exit 1 with a sentence for each bar that is missed."""
    setting, missed = on_machine(0.0), []
    for name, plan in jobs(requests, traces):
        work, actual = work_of(plan, setting.cost), surprised(plan, setting, seed)
        tables: dict[str, list[Row]] = {"divided": [], "stolen": []}
        for workers in WORKERS:
            division = divide(work, workers, SHARDS_PER_WORKER)
            row, below = divided(plan, setting, division)
            missed += [f"{name}, {each}" for each in below]
            tables["divided"].append(row)
            tables["stolen"].append(stolen(division, actual, seed))
        for section, rows in tables.items():
            title = f"{name}, {section}: {len(work):,} prompts"
            print(f"## {title}", as_table(rows), sep="\n\n", end="\n\n", flush=True)
            if results is not None:
                job = {"section": section, "title": title, "requests": requests, "seed": seed} | {
                    "model": "Llama-3.1-8B",
                    "machine": setting.cost.machine.name,
                }
                append_results(results, job, rows)
    if missed:
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
