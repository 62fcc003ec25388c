"""What forms cost a step, and whether every answer has the form that was asked for.

    python jobs/bench/structured.py step --model DIR
    python jobs/bench/structured.py valid

`step`: 128 answers decode together, none or 64 of them held to a form that does not end, in turns
in one process of one thread (OMP_NUM_THREADS=1). Compared are the medians of the steps in which all
128 draw a token, and what of a step the masks take, in seconds of the process's own CPU.

`valid`: 2,000 messages through `batchpipe run` with the shipped model at temperature 1, once for
each kind of form; every answer is checked by `json`, `jsonschema` and `re` alone.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import jsonschema
import torch
from record import append_results, as_table
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from batchpipe.config import JobOptions, RunOptions
from batchpipe.demo.prompt import CATEGORIES, MODEL_DIR, URGENCIES, load_tickets, system_text
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.job.kv_memory import blocks_for_all
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Constraint, Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.running.job import run
from batchpipe.structured.constraint import constraint_of
from batchpipe.structured.grammars import Grammars
from batchpipe.structured.masks import Masks

ROWS = 128
HELD = 64
STEP_TOKENS = 16384  # all prompts in the first step

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 4},
        "mood": {"enum": ["good", "bad", "so so"]},
    },
    "required": ["name", "age", "tags", "mood"],
}
ENDLESS = {
    "schema": constraint_of("schema", {"type": "array", "items": PERSON, "minItems": 500}),
    "regex": constraint_of("regex", "([0-9]{3}-[A-Z]{2,5} ){500}"),
    "grammar": constraint_of("grammar", 'root ::= ("yes " | "no " | "maybe " | "(" root ")"){500}'),
}

LABEL = {
    "type": "object",
    "properties": {
        "category": {"enum": list(CATEGORIES)},
        "urgency": {"enum": list(URGENCIES)},
        "order": {"type": "string", "pattern": "^([A-Z][0-9]{5}|none)$"},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["category", "urgency", "order", "words"],
    "additionalProperties": False,
}
NUMBER = "[A-Z][0-9]{5}|none"


class TimedMasks(Masks):
    """Keeps the seconds that masks have taken."""

    seconds = 0.0

    def apply(self, *given: Any) -> Tensor:
        """As always, with a clock."""
        started = time.process_time()
        masked = super().apply(*given)
        self.seconds += time.process_time() - started
        return masked

    def accept(self, *given: Any) -> bool:
        """As always, with a clock."""
        started = time.process_time()
        ends = super().accept(*given)
        self.seconds += time.process_time() - started
        return ends


class Bench:
    """One model and one set of prompts, played with forms and without."""

    def __init__(self, folder: Path, steps: int, temperature: float) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.shape = ModelShape.from_config(config)
        self.model = load_model(str(folder), config, dtype="float32", device=torch.device("cpu"))
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = [ticket.text for ticket in load_tickets()[:ROWS]]
        self.prompts = Prompts.pack([self.tokenizer(text)["input_ids"] for text in texts])
        self.steps, self.temperature = steps, temperature

    def play(self, held: Sequence[Constraint]) -> tuple[float, float]:
        """Median seconds of a step, and mean seconds of its masks."""
        free = Sampling(max_tokens=self.steps, temperature=self.temperature, ignore_eos=True)
        each = [held[row % len(held)] if held and row < HELD else None for row in range(ROWS)]
        samplings = [
            free
            if form is None
            else Sampling(max_tokens=self.steps, temperature=self.temperature, constraint=form)
            for form in each
        ]
        plan = make_plan(self.prompts, samplings)
        end = self.tokenizer.eos_token_id
        asked = [form for form in each if form is not None]
        masks = None
        if asked:
            grammars = Grammars(self.tokenizer, self.shape.vocab, {end}, asked)
            masks = TimedMasks(grammars, plan.samplings)
        blocks = blocks_for_all(plan)
        engine = Engine(
            bind(self.model, self.shape, blocks),
            plan,
            kv_blocks=blocks,
            pace=Full(STEP_TOKENS),
            eos_token_ids=frozenset({end}),
            request_ids=[str(row) for row in plan.first_row.tolist()],
            masks=masks,
        )
        steps = engine.steps()
        assert not next(steps), "an answer ended with its prompt"
        assert not engine.batcher.prefilling, "the prompts take more than a step"
        seconds: list[float] = []
        masked = 0.0 if masks is None else masks.seconds
        while engine.counts.steps < self.steps:
            started = time.process_time()
            finished = next(steps)
            seconds.append(time.process_time() - started)
            assert len(finished) in (0, len(plan.prompts)), "some answers ended early"
        in_masks = 0.0 if masks is None else (masks.seconds - masked) / len(seconds)
        return median(seconds[:-1]), in_masks


@click.group()
def main() -> None:
    """What forms cost, and whether answers have them."""


@main.command()
@click.option("--model", "folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--steps", type=int, default=64, show_default=True)
@click.option("--repeat", type=int, default=5, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def step(folder: Path, steps: int, repeat: int, results: Path | None) -> None:
    """Time the steps of 128 answers, with forms and without."""
    figures = []
    for temperature in (0.0, 1.0):
        bench = Bench(folder, steps, temperature)
        bench.play(())
        for name, held in {**{kind: [form] for kind, form in ENDLESS.items()}, "all": None}.items():
            forms = list(ENDLESS.values()) if held is None else held
            turns = [(bench.play(()), bench.play(forms)) for _ in range(repeat)]
            free = median(plain for (plain, _), _ in turns)
            step_seconds = median(seconds for _, (seconds, _) in turns)
            in_masks = median(masks for _, (_, masks) in turns)
            figures.append(
                {
                    "forms": name,
                    "temperature": temperature,
                    "step ms without": round(free * 1e3, 2),
                    "step ms": round(step_seconds * 1e3, 2),
                    "more": f"{median(b / a - 1 for (a, _), (b, _) in turns):.1%}",
                    "masks ms": round(in_masks * 1e3, 2),
                    "of the step": f"{in_masks / step_seconds:.1%}",
                }
            )
    print(as_table(figures))
    if results is not None:
        job = {"what": "step", "model": folder.name, "rows": ROWS, "held": HELD, "steps": steps}
        append_results(results, job, figures)


@main.command()
@click.option("--rows", type=int, default=2000, show_default=True)
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def valid(rows: int, results: Path | None) -> None:
    """Count the answers that have the form that was asked for."""
    tickets = load_tickets()
    texts = (f"Message {n}. {tickets[n % len(tickets)].text}" for n in range(rows))
    lines = [{"prompt": f"{system_text()}\n\nTicket: {text}\nAnswer:"} for text in texts]
    figures = [_asked(lines, kind, given, check) for kind, given, check in FORMS]
    print(as_table(figures))
    if results is not None:
        append_results(results, {"what": "valid", "rows": rows, "temperature": 1.0}, figures)


def _asked(
    lines: list[dict[str, str]], kind: str, given: Any, check: Callable[[str], bool]
) -> dict[str, Any]:
    """One run, and how many of its answers are right."""
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.jsonl", Path(folder) / "out.jsonl"
        job.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sampling = {"temperature": 1.0, "max_tokens": 128}
        if given is not None:
            sampling[kind] = given
        options = JobOptions(str(job), str(MODEL_DIR), sampling=sampling, dtype="float32")
        summary = run(options, RunOptions(str(out)))
        answers = [json.loads(line) for line in out.read_text().splitlines()]
    return {
        "form": kind,
        "rows": len(answers),
        "success": sum(answer["status"] == "success" for answer in answers),
        "checked": sum(check(answer["output"]) for answer in answers),
        "tokens": summary.completion_tokens,
        "run s": round(summary.run_seconds, 1),
    }


def _is_label(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), LABEL)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


FORMS: tuple[tuple[str, Any, Callable[[str], bool]], ...] = (
    ("none", None, _is_label),
    ("schema", json.dumps(LABEL), _is_label),
    ("choices", list(CATEGORIES), lambda text: text in CATEGORIES),
    ("regex", NUMBER, lambda text: re.fullmatch(NUMBER, text) is not None),
    (
        "grammar",
        'root ::= "(" root ")" | [0-9]{1,9}',
        lambda text: (
            re.fullmatch(r"\(*[0-9]{1,9}\)*", text) is not None
            and text.count("(") == text.count(")")
        ),
    ),
)

if __name__ == "__main__":
    main()
