"""The same job through batchpipe and through the engines that a user would pick instead.

    bash jobs/bench/peers/install.sh ENVIRONMENTS
    python jobs/bench/engines.py --prompts bbh_cot.parquet --environments ENVIRONMENTS --repeat 3

Every contender answers the job in fresh processes of its own, from file to file, with the same
dtype and threads: import, load, tokenize, generate, detokenize, write. Peers run ``plain``, the
shuffled job and their defaults, and ``tuned``, sorted, leaders of each prefix first, limits
chosen for such jobs (``peers/``). Rounds are interleaved, so that a slow minute of the machine
meets all. Models are converted for their engines beforehand, outside the timing. Answers in
float32 must be batchpipe's.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
from comparison import MIN_SAME_SHARE, Rounds, best_of, differing, figures, readable
from contest import (
    CONTENDERS,
    PEERS,
    Case,
    cached_model,
    command,
    converted,
    counted,
    environment_of,
    why_absent,
)
from models import SHAPES
from record import append_results, as_table
from whole_process import measure
from workloads import WORKLOADS, Workload, usual_files, write_cut

BLOCK_TOKENS = 32  # an engine gives a row whole KV blocks


def run_once(contender: str, case: Case, rounds: Rounds) -> None:
    """One more run is in the rounds, in a folder of its own, so that nothing is resumed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        out = Path(name) / "out.parquet"
        arguments = command(contender, case, out)
        rounds.finished.append(measure(arguments, Path(name), environment_of(case)))
        answers = pq.read_table(out, columns=["output_token_ids"])
        rounds.answers = answers["output_token_ids"].to_pylist()


def compare(case: Case, contenders: Sequence[str], repeat: int) -> dict[str, Rounds]:
    """The runs of all contenders; one that fails is told and left out of later rounds."""
    rounds = {name: Rounds() for name in contenders}
    for turn in range(repeat):
        for name, of_name in rounds.items():
            if of_name.failure:
                continue
            try:
                run_once(name, case, of_name)
            except click.ClickException as error:
                of_name.failure = error.message
                print(f"  {name} failed: {error.message}", file=sys.stderr)
                continue
            seconds = of_name.finished[-1].wall_seconds
            print(f"  {case.dtype} {turn + 1}/{repeat} {name}: {seconds:.1f} s", file=sys.stderr)
    return rounds


def _names(allowed: Sequence[str]) -> Any:
    def split(_context: click.Context, _option: click.Parameter, value: str) -> list[str]:
        names = value.split(",")
        wrong = [name for name in names if name not in allowed]
        if wrong:
            raise click.BadParameter(f"{wrong[0]!r} is none of {', '.join(allowed)}")
        return names

    return split


@click.command()
@click.option(
    "--prompts", type=click.Path(exists=True, path_type=Path), multiple=True, required=True
)
@click.option("--environments", type=click.Path(path_type=Path), envvar="BATCHPIPE_PEERS")
@click.option("--shape", type=click.Choice(sorted(SHAPES)), default="llama-25m", show_default=True)
@click.option("--rows", type=click.IntRange(min=1), help="Of each file, if not its usual cut.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of an answer, if not as usual.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--dtypes", default="float32,bfloat16", callback=_names(("float32", "bfloat16")))
@click.option("--only", default=",".join(CONTENDERS), callback=_names(CONTENDERS))
@click.option("--kv-share", type=click.FloatRange(0, 1), help="KV memory, of distinct tokens.")
@click.option("--threads", type=click.IntRange(min=1), help="Of every contender [default: cores].")
@click.option("--batch-tokens", type=int, default=0, help="Of tuned peers, a step.")
@click.option("--batch-rows", type=int, default=0, help="Of tuned peers, at a time.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("~/.cache/batchpipe-bench"))
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(prompts: tuple[Path, ...], dtypes: list[str], cache: Path, **options: Any) -> None:
    """Measure batchpipe beside other engines on shuffled cuts of PROMPTS."""
    model = cached_model(options["shape"], usual_files(prompts), cache.expanduser())
    different: list[str] = []
    for path in prompts:
        for dtype in dtypes:
            different += measure_file(path, model, dtype, options)
    if different:
        raise click.ClickException(f"{different[0]}, at least {MIN_SAME_SHARE:.0%} must")


def measure_file(source: Path, model: Path, dtype: str, options: dict[str, Any]) -> list[str]:
    """The file's cut is measured, told and kept. Returns whose answers differ."""
    usual = WORKLOADS.get(source.stem, Workload(500, 1, 32))
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        job = Path(name) / "job.parquet"
        write_cut(source, options["rows"] or usual.rows, usual.neighbours, options["seed"], job)
        counts = counted(model, job)
        max_tokens = options["max_tokens"] or usual.max_tokens
        case = Case(
            job=job,
            model=model,
            environments=options["environments"] or Path("peers"),
            dtype=dtype,
            max_tokens=max_tokens,
            longest_tokens=counts["longest_tokens"] + max_tokens,
            all_tokens=counts["distinct_tokens"] + counts["rows"] * (max_tokens + BLOCK_TOKENS),
            kv_tokens=math.ceil((options["kv_share"] or 0) * counts["distinct_tokens"]),
            threads=options["threads"] or len(os.sched_getaffinity(0)),
            batch_tokens=options["batch_tokens"],
            batch_rows=options["batch_rows"],
        )
        table = figures(compare(case, present(options["only"], case), options["repeat"]))
    print(f"\n{source.stem}, {options['shape']}, {dtype}: {counts}\n{as_table(readable(table))}")
    for form in ("tuned", "plain"):
        print(best_of(table, form))
    if options["results"] is not None:
        kept = ("shape", "seed", "repeat", "kv_share", "batch_tokens", "batch_rows")
        asked = {key: options[key] for key in kept}
        facts = {"prompts": source.name, "dtype": dtype, "max_tokens": max_tokens}
        append_results(options["results"], facts | asked | counts, table)
    return differing(table, dtype)


def present(contenders: Sequence[str], case: Case) -> list[str]:
    """The contenders that can take part, their models converted; the others are told."""
    here = []
    for name in contenders:
        reason = why_absent(name, case)
        if reason:
            print(f"  {name} {reason}", file=sys.stderr)
            continue
        peer = name.split()[0]
        if peer in PEERS:
            converted(peer, case)
        here.append(name)
    return here


if __name__ == "__main__":
    main()
