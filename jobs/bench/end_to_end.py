"""The same job through batchpipe and through transformers, each from file to file.

    python jobs/bench/end_to_end.py --prompts bbh_cot.parquet --repeat 3

Every contender runs in its own fresh process: import, load, tokenize, generate, detokenize, write.
Wall time and peak memory are taken from outside. This file loads no model library itself, because
a child's peak memory as the kernel reports it is never below its parent's size.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
from record import append_results, as_table
from whole_process import measure

BASELINES = Path(__file__).with_name("baselines.py")
MODELS = Path(__file__).with_name("models.py")
CONTENDERS = ("batchpipe", "generate", "generate_batch")
MIN_SAME_TEXT_SHARE = 0.99


@dataclass(frozen=True, slots=True)
class Run:
    """One process, from start to exit, and what it wrote and said."""

    wall_seconds: float
    peak_bytes: int
    summary: Mapping[str, Any]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What every contender is given."""

    job: Path
    model: Path
    max_tokens: int
    batch_size: int


def command(contender: str, case: Case, dtype: str, out: Path) -> list[str]:
    """The command line that answers the case with the contender."""
    limits = ["--max-tokens", str(case.max_tokens), "--dtype", dtype]
    if contender == "batchpipe":
        run = [sys.executable, "-m", "batchpipe", "run", str(case.job), "-m", str(case.model)]
        return [*run, "-o", str(out), *limits, "--ignore-eos", "--overwrite", "--json"]
    files = ["--job", str(case.job), "--model", str(case.model), "--out", str(out)]
    tuned = ["--batch-size", str(case.batch_size)] if contender == "generate" else []
    return [sys.executable, str(BASELINES), contender, *files, *limits, *tuned]


def run_once(contender: str, case: Case, dtype: str) -> Run:
    """One fresh run in its own folder, so that nothing is resumed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        out = Path(name) / "out.parquet"
        finished = measure(command(contender, case, dtype, out), Path(name))
        outputs = tuple(pq.read_table(out, columns=["output"])["output"].to_pylist())
    return Run(finished.wall_seconds, finished.peak_bytes, finished.summary, outputs)


def figures(contender: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The contender's row of the table: medians of its runs, the largest of its peaks."""
    summary = runs[-1].summary
    wall_seconds = median(run.wall_seconds for run in runs)
    tokens = summary["prompt_tokens"] + summary["completion_tokens"]
    row = {
        "contender": contender,
        "wall_seconds": round(wall_seconds, 3),
        "all_wall_seconds": [round(run.wall_seconds, 3) for run in runs],
        "tokens_per_second": round(tokens / wall_seconds, 1),
        "peak_bytes": max(run.peak_bytes for run in runs),
        "prompt_tokens": summary["prompt_tokens"],
        "completion_tokens": summary["completion_tokens"],
    }
    for key in ("plan_seconds", "load_seconds", "run_seconds"):
        if key in summary:
            row[key] = round(median(run.summary[key] for run in runs), 3)
    if "reused_prompt_tokens" in summary:
        row["reused_share"] = round(summary["reused_prompt_tokens"] / summary["prompt_tokens"], 4)
    return row


def readable(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The figures as a person reads them, with every wall time over batchpipe's."""
    base = next((row["wall_seconds"] for row in table if row["contender"] == "batchpipe"), None)
    lines = []
    for row in table:
        line = {
            "contender": row["contender"],
            "wall s": f"{row['wall_seconds']:.1f}",
            "times batchpipe": f"{row['wall_seconds'] / base:.2f}" if base else "-",
            "tokens/s": f"{row['tokens_per_second']:,.0f}",
            "peak MB": f"{row['peak_bytes'] / 1e6:,.0f}",
        }
        for key in ("plan_seconds", "load_seconds", "run_seconds"):
            line[key.replace("_seconds", " s")] = f"{row[key]:.1f}" if key in row else "-"
        line["reused"] = f"{row['reused_share']:.1%}" if "reused_share" in row else "-"
        lines.append(line)
    return lines


def same_text_shares(runs: Mapping[str, Run]) -> Iterator[tuple[str, str, float]]:
    """The share of rows with equal text, for every two contenders."""
    names = list(runs)
    for at, left in enumerate(names):
        for right in names[at + 1 :]:
            pairs = zip(runs[left].outputs, runs[right].outputs, strict=True)
            same = sum(a == b for a, b in pairs)
            yield left, right, same / len(runs[left].outputs)


def write_job(prompts: Path, rows: int, seed: int, job: Path) -> None:
    """A seeded, shuffled sample of the prompts lies in ``job``: request_id and prompt alone."""
    texts = pq.read_table(prompts, columns=["prompt"])["prompt"].to_pylist()
    if not 1 <= rows <= len(texts):
        raise click.UsageError(f"--rows {rows} does not fit {prompts}, which has {len(texts)} rows")
    chosen = random.Random(seed).sample(texts, rows)
    ids = [f"request-{row}" for row in range(rows)]
    pq.write_table(pa.table({"request_id": ids, "prompt": chosen}), job)


def cached_model(prompts: Path, cache: Path) -> Path:
    """The directory of the model that belongs to the prompts, made where it is missing."""
    content = hashlib.sha256(prompts.read_bytes() + MODELS.read_bytes()).hexdigest()
    folder = cache / f"llama-{content[:12]}"
    count_file = folder / "parameters.json"  # written last, so that a half-made model is made anew
    if not count_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        arguments = [sys.executable, str(MODELS), "make", "llama-25m", str(prompts), str(folder)]
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            made = measure(arguments, Path(name)).summary
        count_file.write_text(json.dumps(made))
    parameters = json.loads(count_file.read_text())["parameters"]
    print(f"model: random-weight Llama, {parameters:,} parameters, {folder}")
    return folder


def compare(
    case: Case, contenders: Sequence[str], dtype: str, repeat: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Figures per contender and shares of equal text, after ``repeat`` interleaved rounds."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for turn in range(repeat):
        for name in contenders:
            runs[name].append(run_once(name, case, dtype))
            seconds = runs[name][-1].wall_seconds
            print(f"  {dtype} {turn + 1}/{repeat} {name}: {seconds:.1f} s", file=sys.stderr)
    last = {name: of_name[-1] for name, of_name in runs.items()}
    shares = {f"{left} = {right}": share for left, right, share in same_text_shares(last)}
    return [figures(name, of_name) for name, of_name in runs.items()], shares


def _names(allowed: Sequence[str]) -> Any:
    def split(_context: click.Context, _option: click.Parameter, value: str) -> list[str]:
        names = value.split(",")
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise click.BadParameter(f"{wrong[0]!r} is none of {', '.join(allowed)}")
        return names

    return split


@click.command()
@click.option("--prompts", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--rows", type=int, default=500, show_default=True)
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--max-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--dtypes", default="float32,bfloat16", callback=_names(("float32", "bfloat16")))
@click.option("--only", default=",".join(CONTENDERS), callback=_names(CONTENDERS))
@click.option("--batch-size", type=int, default=16, show_default=True, help="Of model.generate.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("~/.cache/batchpipe-bench"))
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(
    prompts: Path,
    rows: int,
    seed: int,
    max_tokens: int,
    repeat: int,
    dtypes: list[str],
    only: list[str],
    batch_size: int,
    cache: Path,
    results: Path | None,
) -> None:
    """Measure batchpipe beside transformers on a shuffled sample of PROMPTS."""
    model = cached_model(prompts, cache.expanduser())
    different: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        case = Case(Path(name) / "job.parquet", model, max_tokens, batch_size)
        write_job(prompts, rows, seed, case.job)
        measure([sys.executable, str(BASELINES), "warm-up"], Path(name))
        for dtype in dtypes:
            table, shares = compare(case, only, dtype, repeat)
            print(f"\n{dtype}\n{as_table(readable(table))}")
            for pair, share in shares.items():
                print(f"rows with equal text, {pair}: {share:.1%}")
            if results is not None:
                job = {"prompts": prompts.name, "rows": rows, "seed": seed, "repeat": repeat}
                options = {"max_tokens": max_tokens, "batch_size": batch_size, "dtype": dtype}
                append_results(results, job | options | {"equal_text": shares}, table)
            share = shares.get("batchpipe = generate", 1.0)
            if dtype == "float32" and share < MIN_SAME_TEXT_SHARE:
                different.append(f"{share:.1%} of float32 rows equal those of generate")
    if different:
        raise click.ClickException(f"{different[0]}, at least {MIN_SAME_TEXT_SHARE:.0%} must")


if __name__ == "__main__":
    main()
