"""What guessing ahead is worth where few answers are left, and what it costs in vain.

    python jobs/bench/speculation.py --model DIR

The tail of a job alone: a few long answers to tickets of the demo, with and without `--speculate`,
interleaved, in one process of one thread (OMP_NUM_THREADS=1), in seconds of its own CPU. Timed are
the steps in which only answers advance. The machine is calibrated with each model first, and the
cost model decides by that. Greedy answers of a model with random weights repeat themselves;
answers sampled at temperature 2 are noise, of which little is guessed. The shipped model is
measured as well, beyond the ends of its answers and up to them; `--model` adds others. Every answer
must be the same both ways.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from record import append_results, as_table
from transformers import AutoConfig, AutoTokenizer

from batchpipe.demo.prompt import MODEL_DIR, TICKETS_PATH, messages, system_text
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.job.calibrate import calibrate
from batchpipe.job.kv_memory import blocks_for_all
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full

STEP_TOKENS = 4096  # all prompts in the first step
NOISE = 2.0  # temperature at which even the shipped model says anything


@dataclass(frozen=True, slots=True)
class Played:
    """One run of the tail."""

    tokens_per_second: float
    steps: int
    drafted: int
    accepted: int
    answers: tuple[tuple[int, ...], ...]


def play(model: Any, cost: StepCost, plan: Plan, eos: frozenset[int], *, guess: bool) -> Played:
    """All prompts in one step, then the answers to their ends: of those steps the time."""
    blocks = blocks_for_all(plan)
    engine = Engine(
        bind(model, cost.shape, blocks),
        plan,
        kv_blocks=blocks,
        pace=Full(STEP_TOKENS),
        eos_token_ids=eos,
        request_ids=[str(row) for row in plan.first_row.tolist()],
        speculate_by=cost if guess else None,
    )
    steps = engine.steps()
    found = list(next(steps))
    assert not engine.batcher.prefilling, "the prompts take more than a step"
    begun, started = engine.counts.completion_tokens, time.process_time()
    for answers in steps:
        found += answers
    seconds = time.process_time() - started
    counts = engine.counts
    said = {answer.index: answer.token_ids for answer in found}
    return Played(
        (counts.completion_tokens - begun) / seconds,
        counts.steps,
        counts.drafted_tokens,
        counts.accepted_tokens,
        tuple(said[index] for index in range(len(plan.prompts))),
    )


def plans(folder: Path, decodes: int, tokens: int) -> dict[str, tuple[Plan, frozenset[int]]]:
    """The tails to play, with the tokens that end an answer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tickets = [json.loads(line)["text"] for line in TICKETS_PATH.read_text().splitlines()[:decodes]]
    if folder == MODEL_DIR:
        prompts = [
            tokenizer.apply_chat_template(
                messages(text), add_generation_prompt=True, return_dict=False
            )
            for text in tickets
        ]
    else:
        prompts = [tokenizer(f"{system_text()}\n{text}")["input_ids"] for text in tickets]
    packed = Prompts.pack(prompts)

    def plan(**how: Any) -> Plan:
        return make_plan(packed, [Sampling(max_tokens=tokens, **how)] * decodes)

    found = {
        "greedy": (plan(ignore_eos=True), frozenset[int]()),
        "noise": (plan(ignore_eos=True, temperature=NOISE), frozenset[int]()),
    }
    if folder == MODEL_DIR:
        found["greedy, to its end"] = (plan(), frozenset([tokenizer.eos_token_id]))
    return found


def measure(folder: Path, decodes: int, tokens: int, repeat: int) -> list[dict[str, Any]]:
    """Each tail with and without guessing, interleaved: medians."""
    machine = calibrate(str(folder), dtype="float32", device="cpu", quick=True).machine
    config = AutoConfig.from_pretrained(folder)
    cost = StepCost(ModelShape.from_config(config), machine, "float32")
    model = load_model(str(folder), config, dtype="float32", device=torch.device("cpu"))
    rows = []
    for text, (plan, eos) in plans(folder, decodes, tokens).items():
        pairs = []
        for turn in range(repeat + 1):
            order = (False, True) if turn % 2 else (True, False)
            both = {guess: play(model, cost, plan, eos, guess=guess) for guess in order}
            assert both[False].answers == both[True].answers, f"{folder.name}, {text}: they differ"
            pairs.append(both)
        off, on = [[pair[guess] for pair in pairs[1:]] for guess in (False, True)]
        rows.append(
            {
                "model": "demo" if folder == MODEL_DIR else folder.name,
                "answers": text,
                "tokens": sum(map(len, on[0].answers)),
                "steps off": off[0].steps,
                "steps": on[0].steps,
                "guessed": on[0].drafted,
                "right": on[0].accepted,
                "tokens/s off": round(median(each.tokens_per_second for each in off)),
                "tokens/s": round(median(each.tokens_per_second for each in on)),
                "ratio": round(
                    median(
                        pair[True].tokens_per_second / pair[False].tokens_per_second
                        for pair in pairs[1:]
                    ),
                    3,
                ),
            }
        )
    return rows


@click.command()
@click.option(
    "--model", "folders", type=click.Path(exists=True, path_type=Path), multiple=True, help="Too."
)
@click.option("--decodes", type=int, default=4, show_default=True)
@click.option("--tokens", type=int, default=256, show_default=True, help="Of an answer.")
@click.option("--repeat", type=int, default=5, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(
    folders: tuple[Path, ...], decodes: int, tokens: int, repeat: int, results: Path | None
) -> None:
    """Time the tail of a job with and without guessing ahead."""
    figures = []
    for folder in (*folders, MODEL_DIR):
        figures += measure(folder, decodes, tokens, repeat)
    print(as_table(figures))
    if results is not None:
        append_results(results, {"decodes": decodes, "tokens": tokens, "repeat": repeat}, figures)


if __name__ == "__main__":
    main()
