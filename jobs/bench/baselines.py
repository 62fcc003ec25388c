"""What transformers does with the same job, each from file to file in its own process.

    python jobs/bench/baselines.py generate --job job.parquet --model DIR --out out.parquet ...
    python jobs/bench/baselines.py generate_batch ...          continuous batching

The measuring process itself imports neither torch nor transformers, so that it stays small. The
last line on stdout is a JSON object of seconds and token counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class Work:
    """Token ids to continue, each by the same number of new tokens or until its end."""

    prompts: list[list[int]]
    max_tokens: int
    pad_token_id: int
    eos_token_id: int | None = None  # what ends an answer; None: nothing does


def padded_generate(model: Any, work: Work, batch_size: int) -> list[list[int]]:
    """Answers of `model.generate`, in input order, from left-padded batches of similar lengths.

    An answer that ended before the others of its batch goes on with padding.
    """
    import torch

    answers: list[list[int]] = [[] for _ in work.prompts]
    by_length = sorted(range(len(work.prompts)), key=lambda row: len(work.prompts[row]))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        width = max(len(work.prompts[row]) for row in rows)
        input_ids = torch.full((len(rows), width), work.pad_token_id)  # [rows, width]
        mask = torch.zeros_like(input_ids)  # [rows, width]
        for at, row in enumerate(rows):
            tokens = work.prompts[row]
            input_ids[at, width - len(tokens) :] = torch.tensor(tokens)
            mask[at, width - len(tokens) :] = 1
        made = model.generate(input_ids, attention_mask=mask, generation_config=_greedy(work))
        for row, tokens in zip(rows, made[:, width:].tolist(), strict=True):
            answers[row] = tokens
    return answers


def continuous_generate(model: Any, work: Work, limits: dict[str, int]) -> list[list[int]]:
    """Answers of `model.generate_batch`, in input order, with prefix sharing by whole pages."""
    from transformers import ContinuousBatchingConfig

    made = model.generate_batch(
        work.prompts,
        generation_config=_greedy(work),
        continuous_batching_config=ContinuousBatchingConfig(**limits),
    )
    answers = [output.generated_tokens for output in made.values()]
    failed = [output.error for output in made.values() if output.error]
    if failed or len(answers) != len(work.prompts):
        raise click.ClickException(f"generate_batch lost rows: {failed[:1] or len(answers)}")
    return answers


def _greedy(work: Work) -> Any:
    """Greedy for ``max_tokens`` new tokens: without an eos id nothing stops earlier."""
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=work.max_tokens,
        do_sample=False,
        eos_token_id=work.eos_token_id,
        pad_token_id=work.pad_token_id,
    )


def answer_file(
    answer: Callable[[Any, Work], list[list[int]]],
    job: Path,
    model_dir: Path,
    out: Path,
    dtype: str,
    max_tokens: int,
) -> None:
    """Every row of the job is answered in ``out``; the figures stand on stdout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).eval()
    # Both fill options left at None from these, and would stop at the model's eos.
    model.generation_config = GenerationConfig()
    model.config.eos_token_id = None
    loaded = time.perf_counter()
    table = pq.read_table(job, columns=["request_id", "prompt"])
    prompts = tokenizer(table["prompt"].to_pylist())["input_ids"]
    answers = answer(model, Work(prompts, max_tokens, tokenizer.pad_token_id))
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    columns = {"request_id": table["request_id"], "output": texts, "output_token_ids": answers}
    pq.write_table(pa.table(columns), out)
    figures = {
        "rows": len(texts),
        "prompt_tokens": sum(map(len, prompts)),
        "completion_tokens": sum(map(len, answers)),
        "load_seconds": loaded - started,
        "run_seconds": time.perf_counter() - loaded,
    }
    print(json.dumps(figures))


@click.group()
def main() -> None:
    """Run transformers' own ways to answer a job file."""


def _job_options(command: Callable[..., None]) -> Callable[..., None]:
    file = click.Path(path_type=Path)
    for option in (
        click.option("--max-tokens", type=click.IntRange(min=1), default=16, show_default=True),
        click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32"),
        click.option("--out", type=file, required=True),
        click.option("--model", "model_dir", type=file, required=True),
        click.option("--job", type=file, required=True),
    ):
        command = option(command)
    return command


@main.command("generate")
@_job_options
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
def generate_command(batch_size: int, **job: Any) -> None:
    """Length-sorted, left-padded batches through model.generate."""
    answer_file(lambda model, work: padded_generate(model, work, batch_size), **job)


@main.command("generate_batch")
@_job_options
@click.option("--page-size", type=int, default=32, show_default=True, help="Tokens of a KV page.")
@click.option("--cache-tokens", type=int, default=98304, show_default=True)
@click.option("--batch-tokens", type=int, default=1024, show_default=True)
@click.option("--batch-rows", type=int, default=4, show_default=True)
@click.option("--as-documented", is_flag=True, help="Leave all limits to transformers.")
def generate_batch_command(
    page_size: int,
    cache_tokens: int,
    batch_tokens: int,
    batch_rows: int,
    as_documented: bool,
    **job: Any,
) -> None:
    """Continuous batching through model.generate_batch.

    The defaults are what was fastest on a CPU. Without flash attention one dense mask spans all
    requests of a step, so that attention grows with their square, and requests that start together
    share no prefix: 500 rows of bbh_cot took 105, 93 and 168 s with 1, 4 and 16 rows a step (two
    AVX-512 cores, bfloat16). The cache keeps all distinct tokens of those rows; below 15 % free
    space it would drop every prefix at once.
    """
    limits = {
        "page_size": page_size,
        "num_blocks": -(-cache_tokens // page_size),
        "max_batch_tokens": batch_tokens,
        "max_requests_per_batch": batch_rows,
    }
    chosen = {} if as_documented else limits
    answer_file(lambda model, work: continuous_generate(model, work, chosen), **job)


if __name__ == "__main__":
    main()
