"""How much of the shareable prompt tokens is shared when KV memory is short.

    python jobs/bench/sharing.py bbh_cot.parquet xquad_docqa.parquet --kv-share 0.25

Plays the plan with the scheduler that the engine runs, as an 8B Llama on an H200 would: answers
have the lengths that the file observed (``observed_output_chars / 4``), or 64 tokens. KV memory is
a share of what the distinct prompt tokens of the whole job need. Proves that the order and the
planned KV lifetimes keep the sharing: at least 97 % of it with a quarter of the memory.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq
from contenders import DTYPE, LLAMA_3_1_8B
from record import append_results, as_table

from batchpipe.demo.prompt import MODEL_DIR
from batchpipe.job.hidden_torch import hide_torch
from batchpipe.planner.kv_ledger import BLOCK_TOKENS
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import ORDERS
from batchpipe.planner.planning import SIMULATED_PROMPTS, Setting, dry_run, make_plan, ordered
from batchpipe.planner.request import Prompts, Sampling

STEP_TOKENS = 1024
ANSWER_TOKENS = 64  # where the file observed none
MIN_KEPT_SHARE = 0.97


def read_job(path: Path, seed: int) -> tuple[Prompts, list[int]]:
    """Token ids and answer lengths of the file's rows, shuffled."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    rows = pq.read_table(path, columns=["prompt", "observed_output_chars"]).to_pylist()
    random.Random(seed).shuffle(rows)
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    ids = [
        np.asarray(encoding.ids, dtype=np.int32)
        for start in range(0, len(rows), 256)
        for encoding in encode([row["prompt"] for row in rows[start : start + 256]])
    ]
    answers = [max(1, (row["observed_output_chars"] or 4 * ANSWER_TOKENS) // 4) for row in rows]
    return Prompts.pack(ids), answers


def measure(path: Path, order: str, kv_share: float, seed: int) -> dict[str, Any]:
    """One file under one order."""
    prompts, answers = read_job(path, seed)
    started = time.perf_counter()
    samplings = [Sampling(max_tokens=max(answers))] * len(prompts)
    plan = make_plan(prompts, samplings, order="input")
    kv_blocks = int(kv_share * plan.tree.distinct_tokens) // BLOCK_TOKENS
    setting = Setting(StepCost(LLAMA_3_1_8B, MACHINES["h200"], DTYPE), kv_blocks, STEP_TOKENS)
    plan = ordered(replace(plan, order_name=order), setting, simulated_prompts=SIMULATED_PROMPTS)
    planned = time.perf_counter()
    per_prompt = np.array([answers[row] for row in plan.first_row.tolist()], dtype=np.int64)
    played = dry_run(plan, setting, per_prompt)
    reused = plan.row_prompt_tokens - played.computed_prompt_tokens
    return {
        "file": path.stem,
        "order": order,
        "rows": len(prompts),
        "prompt tokens": plan.row_prompt_tokens,
        "shareable": plan.shareable_prompt_tokens / plan.row_prompt_tokens,
        "kept": reused / plan.shareable_prompt_tokens,
        "KV tokens": kv_blocks * BLOCK_TOKENS,
        "steps": played.steps,
        "preempted": played.preemptions,
        "plan s": planned - started,
        "schedule s": time.perf_counter() - planned,
    }


def readable(row: dict[str, Any]) -> dict[str, str]:
    """Shares as per cent, counts in groups of three."""
    shown = {}
    for name, figure in row.items():
        if name in ("shareable", "kept"):
            shown[name] = f"{figure:.2%}"
        elif isinstance(figure, float):
            shown[name] = f"{figure:.1f}"
        else:
            shown[name] = figure if isinstance(figure, str) else f"{figure:,}"
    return shown


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--order", "orders", type=click.Choice(list(ORDERS)), multiple=True)
@click.option("--kv-share", type=float, default=0.25, show_default=True)
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(
    files: tuple[Path, ...],
    orders: tuple[str, ...],
    kv_share: float,
    seed: int,
    results: Path | None,
) -> None:
    """Measure FILES, Parquet with the columns `prompt` and `observed_output_chars`."""
    hide_torch()
    chosen = orders or ("planned",)
    figures = [measure(file, order, kv_share, seed) for file in files for order in chosen]
    print(as_table([readable(row) for row in figures]))
    if results is not None:
        append_results(results, {"kv_share": kv_share, "seed": seed}, figures)
    if any(row["kept"] < MIN_KEPT_SHARE for row in figures if row["order"] == "planned"):
        sys.exit(f"less than {MIN_KEPT_SHARE:.0%} of the sharing was kept")


if __name__ == "__main__":
    main()
