"""What dividing a job over many workers costs, in simulation: balance and duplicated prefixes.

    python jobs/bench/distributed.py --trace trace_mooncake_conversation.parquet

Times are the planner's sums: Llama-3.1-8B on an A100, compute of distinct tokens and reads of
decodes, one after the other. No model runs. Three kinds of jobs: templates of
Zipf popularity, BlendServe's traces #1 to #4, and recorded lengths. ``bound`` is an equal part of
one worker's time, or the heaviest prompt if that takes longer.

**divided** sets `divide` with stealing against routers that do not know what prompts cost, all on
equal workers and with answers as long as expected. The routers' workers compute each prefix once,
whatever their memory. Bars: a makespan of at most 1.1 of the bound and at most 5 % of the distinct
prompt tokens computed twice; a lower makespan than each rival's in every cell, save where both are
within 1 % of the bound; and in the mean of all cells less of both than each rival.

**stolen** has workers of speeds drawn from 0.5 to 1.5, and answers that are a lognormal factor
(sigma 0.5), half of it the template's, away from what was expected: the same division with stealing
and without. The bound is then that of the actual work at the sum of all speeds, or of the heaviest
prompt on the slowest worker. Bars: 1.3 of it, and 5 % of the tokens.

**played** has the engine's own scheduler play every step of each worker's part, all of it at hand
from the start and nothing stolen, beside one worker with everything and two routers. The bound is
an equal part of that one's makespan or the longest answer alone, step by step. No bar: it shows
what the sums above leave out, such as answers so long that they outlast their worker's part, and
weights that every worker reads for itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from contenders import plan_of
from planner_tables import MACHINE, on_machine
from record import append_results, as_table
from routers import ROUTERS, routed
from traces import MIXES, blendserve, zipf

from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, make_plan
from batchpipe.planner.shards.assign import Division, divide
from batchpipe.planner.shards.simulate import simulate
from batchpipe.planner.shards.work import Work, work_of
from batchpipe.rows.trace import read_trace

WORKERS = (2, 4, 8, 16, 32, 64)
SHARDS_PER_WORKER = 4
MOST_OF_BOUND, MOST_OF_BOUND_STOLEN, MOST_DUPLICATED = 1.1, 1.3, 0.05
TIE = 1.01  # of the bound: who is below it cannot be beaten
SLOWEST, FASTEST, ANSWER_SIGMA = 0.5, 1.5, 0.5

PLAYED_DIVISIONS, PLAYED_ORDER = 3, "decode-first"  # 2, 4 and 8 workers
PLAYED_ROUTERS = ("round robin", "dfs, equal counts")

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """A makespan over its bound, and tokens computed twice over all that are distinct."""

    of_bound: float
    duplicated: float

    def __str__(self) -> str:
        return f"{self.of_bound:.3f} {self.duplicated:.3%}"


def outcomes(plan: Plan, setting: Setting, division: Division) -> dict[str, Outcome]:
    """What becomes of the plan when it is divided, and with each router."""
    work, workers = division.work, len(division.queues)
    bound, distinct = work.bound_seconds(workers), work.tree.computed_tokens
    run = simulate(division)
    found = {"divided": Outcome(run.makespan_seconds / bound, run.duplicated_tokens / distinct)}
    for name, router in ROUTERS.items():
        seconds, tokens = routed(work, router(plan, workers), workers)
        found[name] = Outcome(max(seconds) / bound, tokens / distinct)
    return found


def below_bars(found: Mapping[str, Outcome]) -> list[str]:
    """A sentence for each bar that this cell misses."""
    ours = found["divided"]
    missed = []
    if ours.of_bound > MOST_OF_BOUND:
        missed.append(f"the makespan is {ours.of_bound:.3f} of the bound, above {MOST_OF_BOUND}")
    if ours.duplicated > MOST_DUPLICATED:
        missed.append(f"{ours.duplicated:.2%} of the tokens are computed twice")
    missed += [
        f"{name} has {found[name].of_bound:.4f} of the bound, not above {ours.of_bound:.4f}"
        for name in ROUTERS
        if found[name].of_bound <= ours.of_bound and ours.of_bound > TIE
    ]
    return missed


def means(cells: Sequence[Mapping[str, Outcome]]) -> dict[str, Outcome]:
    """The mean outcome of each over all cells."""
    return {
        name: Outcome(
            sum(cell[name].of_bound for cell in cells) / len(cells),
            sum(cell[name].duplicated for cell in cells) / len(cells),
        )
        for name in cells[0]
    }


# ---- on unequal workers, with answers of other lengths -----------------------------------------


def surprised(plan: Plan, setting: Setting, seed: int) -> Work:
    """The same prompts with answers a factor away from what was expected."""
    rng = np.random.default_rng(seed)
    of_group = rng.normal(0, ANSWER_SIGMA, len(plan.group_keys))[plan.groups]
    factor = np.exp((of_group + rng.normal(0, ANSWER_SIGMA, len(plan.prompts))) / 2**0.5)
    answers = np.maximum(1, np.rint(plan.output_tokens * factor)).astype(np.int64)
    return work_of(replace(plan, output_tokens=answers), setting)


def stolen(division: Division, actual: Work, seed: int) -> tuple[Row, Outcome]:
    """The division played with stealing, and as it would end without."""
    workers = len(division.queues)
    speeds = np.random.default_rng(seed).uniform(SLOWEST, FASTEST, workers).tolist()
    run = simulate(division, actual, speeds)
    bound = max(actual.total_seconds / sum(speeds), actual.longest_seconds / min(speeds))
    fixed = [
        actual.together_seconds([shard.ranks for shard in queue]) / speed
        for queue, speed in zip(division.queues, speeds, strict=True)
    ]
    outcome = Outcome(
        run.makespan_seconds / bound, run.duplicated_tokens / actual.tree.computed_tokens
    )
    row = {
        "workers": workers,
        "bound s": round(bound, 2),
        "without": f"{max(fixed) / bound:.3f}",
        "with": str(outcome),
        "shards": run.shards,
        "stolen": run.stolen_shards,
        "stolen work": f"{run.stolen_seconds / division.work.total_seconds:.1%}",
        "idle": f"{run.idle_share:.1%}",
    }
    return row, outcome


# ---- step by step ------------------------------------------------------------------------------


def played(plan: Plan, setting: Setting, divisions: Sequence[Division]) -> list[Row]:
    """Each division with every worker's steps simulated, beside one worker."""
    work = divisions[0].work
    alone = _steps_seconds(plan, np.arange(len(plan.prompts)), setting)
    longest = _steps_seconds(plan, plan.output_tokens.argmax(keepdims=True), setting)
    rows = []
    for division in divisions:
        workers = len(division.queues)
        parts = [[work.prompts(*shard.ranks) for shard in queue] for queue in division.queues]
        seconds = [_steps_seconds(plan, np.concatenate(part), setting) for part in parts if part]
        bound = max(alone / workers, longest)
        row: Row = {
            "workers": workers,
            "one worker s": round(alone, 1),
            "longest answer s": round(longest, 1),
            "bound s": round(bound, 1),
            "divided s": round(max(seconds), 1),
            "mean s": round(sum(seconds) / workers, 1),
            "x bound": f"{max(seconds) / bound:.3f}",
        }
        for name in PLAYED_ROUTERS:
            worker_of = ROUTERS[name](plan, workers)
            routed_seconds = [
                _steps_seconds(plan, work.tree.order[worker_of == worker], setting)
                for worker in range(workers)
            ]
            row[f"{name} s"] = round(max(routed_seconds), 1)
        rows.append(row)
    return rows


def _steps_seconds(plan: Plan, prompts: npt.NDArray[np.int64], setting: Setting) -> float:
    """The makespan of one worker that has these prompts and nothing else."""
    samplings = [plan.samplings[prompt] for prompt in prompts.tolist()]
    part = make_plan(plan.prompts.take(prompts), samplings, order=PLAYED_ORDER, setting=setting)
    return dry_run(part, setting).makespan_seconds


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
    setting = on_machine(0.0)
    missed: list[str] = []
    cells: list[dict[str, Outcome]] = []
    for name, plan in jobs(requests, traces):
        tables, below = measure(plan, setting, seed, cells)
        missed += [f"{name}, {each}" for each in below]
        for section, rows in tables.items():
            show(f"{name}, {section}: {len(plan.prompts):,} prompts", rows, requests, results)
    mean = means(cells)
    show("mean of all that is divided", [{k: str(v) for k, v in mean.items()}], requests, results)
    missed += [
        f"{name} computes {mean[name].duplicated:.3%} of the tokens twice, fewer than we do"
        for name in ROUTERS
        if mean[name].duplicated <= mean["divided"].duplicated
    ]
    if missed:
        sys.exit("\n".join(missed))


def measure(
    plan: Plan, setting: Setting, seed: int, cells: list[dict[str, Outcome]]
) -> tuple[dict[str, list[Row]], list[str]]:
    """The tables of a job and its misses; its cells are added to those of other jobs."""
    work, actual = work_of(plan, setting), surprised(plan, setting, seed)
    tables: dict[str, list[Row]] = {"divided": [], "stolen": []}
    missed = []
    divisions = [divide(work, workers, SHARDS_PER_WORKER) for workers in WORKERS]
    tables["played"] = played(plan, setting, divisions[:PLAYED_DIVISIONS])
    for workers, division in zip(WORKERS, divisions, strict=True):
        cells.append(outcomes(plan, setting, division))
        row = {"workers": workers, "bound s": round(work.bound_seconds(workers), 2)}
        tables["divided"].append(row | {k: str(v) for k, v in cells[-1].items()})
        row, outcome = stolen(division, actual, seed)
        tables["stolen"].append(row)
        below = below_bars(cells[-1])
        if outcome.of_bound > MOST_OF_BOUND_STOLEN or outcome.duplicated > MOST_DUPLICATED:
            below.append(f"with stealing it comes to {outcome}")
        missed += [f"{workers} workers: {each}" for each in below]
    return tables, missed


def show(title: str, rows: list[Row], requests: int, results: Path | None) -> None:
    """The table is printed, and kept where results are."""
    print(f"## {title}", as_table(rows), sep="\n\n", end="\n\n", flush=True)
    if results is not None:
        job = {"title": title, "requests": requests, "model": "Llama-3.1-8B"}
        append_results(results, job | {"profile": MACHINE.name}, rows)


if __name__ == "__main__":
    main()
