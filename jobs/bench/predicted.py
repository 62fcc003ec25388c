"""Is the simulator right? Predicted against measured makespan, and the ranking of policies.

    python jobs/bench/predicted.py --model DIR bbh_cot.parquet arena_open.parquet

Calibrates the machine with the model, then plays every policy twice: in the simulator, and in the
real engine with the same plan, KV memory and answer lengths. Answers have the lengths that the file
observed, up to ``--longest``. Passes while no prediction is more than 15 % off and
policies rank as measured: Kendall's tau-b at least 0.8, over all pairs of policies with the same KV
memory. Less than 3 % apart is a tie, and so are measured times whose repetitions overlap. Nothing
else may run beside it.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import click
import pyarrow.parquet as pq
import torch
from record import append_results, as_table
from transformers import AutoConfig, AutoTokenizer

from batchpipe.engine.engine import Engine
from batchpipe.engine.model import Decoder, bind, load_model
from batchpipe.job.calibrate import calibrate
from batchpipe.job.kv_memory import blocks_for_all
from batchpipe.job.plan_job import STEP_TOKENS, alone_blocks
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import ORDERS
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import Setting, dry_run, make_plan, pace_of
from batchpipe.planner.request import Prompts, Sampling

KV_SHARES = (1.0, 0.25)  # of what the whole job would hold at once
ANSWER_TOKENS = 64  # where the file observed none
MAX_ERROR = 0.15
MIN_TAU = 0.8
TIE = 0.03


@dataclass(frozen=True, slots=True)
class Job:
    """Prompts and how long each answer will be."""

    name: str
    prompts: Prompts
    samplings: tuple[Sampling, ...]


def read_job(path: Path, tokenizer: Any, rows: int, longest: int) -> Job:
    """Some rows of the file, shuffled, with their observed answer lengths."""
    table = pq.read_table(path, columns=["prompt", "observed_output_chars"]).to_pylist()
    random.Random(7).shuffle(table)
    table = table[:rows]
    ids = tokenizer([row["prompt"] for row in table], verbose=False)["input_ids"]
    lengths = [max(1, (row["observed_output_chars"] or 4 * ANSWER_TOKENS) // 4) for row in table]
    samplings = [Sampling(max_tokens=min(longest, n), ignore_eos=True) for n in lengths]
    return Job(path.stem, Prompts.pack([row[-2048:] for row in ids]), tuple(samplings))


def run_engine(decoder: Decoder, plan: Plan, setting: Setting) -> float:
    """Seconds in which the engine answers the whole plan."""
    engine = Engine(
        decoder,
        plan,
        kv_blocks=setting.kv_blocks,
        pace=pace_of(plan, setting),
        eos_token_ids=frozenset(),
        request_ids=[str(row) for row in plan.first_row.tolist()],
    )
    started = time.perf_counter()
    answered = sum(len(answers) for answers in engine.steps())
    assert answered == len(plan.prompts)
    return time.perf_counter() - started


def measure(job: Job, model: Any, cost: StepCost, repeat: int) -> list[dict[str, Any]]:
    """Every policy and KV memory: predicted and measured, repetitions interleaved."""
    plan = make_plan(job.prompts, job.samplings, order="input")
    need, least = blocks_for_all(plan), int(alone_blocks(plan).max())
    cases = []
    for share in KV_SHARES:
        setting = Setting(cost, max(least, int(share * need)), STEP_TOKENS["cpu"])
        for order in ORDERS:
            made = make_plan(job.prompts, job.samplings, order=order, setting=setting)
            predicted = dry_run(made, setting)
            cases.append((order, share, setting, made, predicted, []))
    run_engine(bind(model, cost.shape, cases[-1][2].kv_blocks), cases[-1][3], cases[-1][2])  # warm
    for round_ in range(repeat):
        turn = round_ * len(cases) // repeat  # nobody is always first
        for _, _, setting, made, _, seconds in cases[turn:] + cases[:turn]:
            decoder = bind(model, cost.shape, setting.kv_blocks)
            seconds.append(run_engine(decoder, made, setting))
    return [
        {
            "job": job.name,
            "policy": order,
            "KV": share,
            "chosen": made.policy,
            "steps": predicted.steps,
            "computed tokens": predicted.computed_prompt_tokens,
            "predicted s": predicted.makespan_seconds,
            "measured s": median(seconds),
            "fastest s": min(seconds),
            "slowest s": max(seconds),
            "error": predicted.makespan_seconds / median(seconds) - 1,
        }
        for order, share, _, made, predicted, seconds in cases
    ]


def kendall_tau(rows: list[dict[str, Any]]) -> float:
    """Tau-b of predicted and measured order, over pairs of policies on one job and one KV memory.

    1 where no two policies differ either way.
    """
    agreeing, measured_pairs, predicted_pairs = 0, 0, 0
    for one, other in combinations(rows, 2):
        if (one["job"], one["KV"]) != (other["job"], other["KV"]):
            continue
        measured = _direction(one["measured s"], other["measured s"])
        apart = one["slowest s"] < other["fastest s"] or other["slowest s"] < one["fastest s"]
        measured = measured if apart else 0
        predicted = _direction(one["predicted s"], other["predicted s"])
        agreeing += measured * predicted
        measured_pairs += abs(measured)
        predicted_pairs += abs(predicted)
    if not measured_pairs and not predicted_pairs:
        return 1.0
    return agreeing / max(1.0, (measured_pairs * predicted_pairs) ** 0.5)


def _direction(one: float, other: float) -> int:
    """-1 where the first is clearly less, 1 where it is clearly more, 0 for a tie."""
    if abs(one - other) < TIE * min(one, other):
        return 0
    return 1 if one > other else -1


def readable(row: dict[str, Any]) -> dict[str, str]:
    """Rounded for a person."""
    formats = {"KV": ".0%", "error": "+.1%"}
    formats |= {f"{each} s": ".2f" for each in ("predicted", "measured", "fastest", "slowest")}
    return {
        name: format(value, formats.get(name, "" if isinstance(value, str) else ","))
        for name, value in row.items()
    }


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--model", "folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--rows", type=int, default=150, show_default=True, help="Of each file.")
@click.option("--longest", type=int, default=96, show_default=True, help="Tokens of an answer.")
@click.option("--repeat", type=int, default=3, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(
    files: tuple[Path, ...],
    folder: Path,
    rows: int,
    longest: int,
    repeat: int,
    results: Path | None,
) -> None:
    """Compare simulation and engine on FILES, Parquet with `prompt`."""
    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    report = calibrate(str(folder), dtype="float32", device="cpu", quick=False)
    print(f"{report}\n", flush=True)
    machine = report.machine
    cost = StepCost(ModelShape.from_config(config), machine, "float32")
    model = load_model(str(folder), config, dtype="float32", device=torch.device("cpu"))
    figures = []
    for file in files:
        measured = measure(read_job(file, tokenizer, rows, longest), model, cost, repeat)
        figures += measured
        print(as_table([readable(row) for row in measured]))
        print(f"{file.stem}: Kendall's tau {kendall_tau(measured):.2f}\n", flush=True)
    errors = [abs(row["error"]) for row in figures]
    print(
        f"error of the makespan: median {median(errors):.1%}, worst {max(errors):.1%}; "
        f"Kendall's tau over all {kendall_tau(figures):.2f}"
    )
    if results is not None:
        job = {"rows": rows, "longest": longest, "machine": machine.as_fields()}
        append_results(results, job, figures)
    if max(errors) > MAX_ERROR or kendall_tau(figures) < MIN_TAU:
        sys.exit(f"the bars are an error of {MAX_ERROR:.0%} and a tau of {MIN_TAU}")


if __name__ == "__main__":
    main()
