"""Where the time of a whole run goes, and how near its matrix products are to what they can be.

    python jobs/bench/breakdown.py --prompts bbh_cot.parquet --shape smollm2-135m --threads 2

`batchpipe run` answers a shuffled cut of the prompts in a process of its own, from file to file, on
the CPU. The package's own functions are timed where they call one another (`timed_run.py`), so that
every moment from start to exit belongs to one part:

    GEMM                all linear layers, the output head among them
    attention           storing keys and values, and attending to them
    other tensor work   the rest of a forward pass: norms, rotary embedding, activation, residuals
    sampling            from scores to tokens
    scheduling          forming steps and settling them
    reading, tokenising, planning, loading, detokenising, writing (results and journal)
    starting, ending    the interpreter, imports, configuration and tokenizer; the way out

Then a second process computes the same products alone (`gemm_ceiling.py`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from contest import Case, cached_model, command, counted, environment_of
from models import SHAPES
from record import append_results, as_table
from timed_run import ATTENTION, GEMM, STARTING
from whole_process import measure
from workloads import WORKLOADS, Workload, usual_files, write_cut

TIMED_RUN = Path(__file__).with_name("timed_run.py")
GEMM_CEILING = Path(__file__).with_name("gemm_ceiling.py")
MOST_OUTSIDE = 0.10  # of a run, in neither GEMM nor attention; from 135M parameters on
TURN_SECONDS = 1.5e-6  # at each of its turns the stopwatch takes about so much (EPYC)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One run in parts, and its products as they would be alone."""

    wall_seconds: float
    run_seconds: float  # of them, those in which prompts were answered
    peak_bytes: int
    timing_seconds: float  # of them, those that the stopwatch took, about
    seconds: Mapping[str, float]  # by part
    gemm_flops: float
    alone_seconds: float

    @property
    def outside_share(self) -> float:
        """The share of the run that is in neither GEMM nor attention."""
        return 1 - (self.seconds[GEMM] + self.seconds[ATTENTION]) / self.wall_seconds

    @property
    def answering_outside_share(self) -> float:
        """The same of the seconds in which prompts were answered."""
        return 1 - (self.seconds[GEMM] + self.seconds[ATTENTION]) / self.run_seconds

    @property
    def ceiling_share(self) -> float:
        """The rate of the run's products over their rate alone."""
        return self.alone_seconds / self.seconds[GEMM]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each part, the longest first."""
        parts = sorted(self.seconds.items(), key=lambda pair: -pair[1])
        return [
            {"part": part, "seconds": round(each, 3), "share": round(each / self.wall_seconds, 4)}
            for part, each in parts
        ]

    def facts(self) -> dict[str, Any]:
        """What the parts amount to."""
        return {
            "wall_seconds": round(self.wall_seconds, 3),
            "run_seconds": round(self.run_seconds, 3),
            "peak_bytes": self.peak_bytes,
            "timing_seconds": round(self.timing_seconds, 3),
            "outside_share": round(self.outside_share, 4),
            "answering_outside_share": round(self.answering_outside_share, 4),
            "gemm_gflops_per_second": round(self.gemm_flops / self.seconds[GEMM] / 1e9, 1),
            "gemm_alone_gflops_per_second": round(self.gemm_flops / self.alone_seconds / 1e9, 1),
            "gemm_ceiling_share": round(self.ceiling_share, 4),
        }

    def __str__(self) -> str:
        facts = self.facts()
        shown = [
            {"part": row["part"], "s": f"{row['seconds']:.2f}", "share": f"{row['share']:.1%}"}
            for row in self.rows()
        ]
        return "\n".join(
            (
                as_table([*shown, {"part": "all", "s": f"{self.wall_seconds:.2f}"}]),
                f"outside GEMM and attention {self.outside_share:.1%} of the run, at most "
                f"{MOST_OUTSIDE:.0%} is asked from 135M parameters on; "
                f"{self.answering_outside_share:.1%} of the {self.run_seconds:.1f} s of answering",
                f"GEMM {facts['gemm_gflops_per_second']:,.0f} GFLOP/s, "
                f"{self.ceiling_share:.1%} of the {facts['gemm_alone_gflops_per_second']:,.0f} "
                f"that the same products reach alone",
                f"peak {self.peak_bytes / 1e6:,.0f} MB; the stopwatch took about "
                f"{self.timing_seconds:.2f} s",
            )
        )


def break_down(case: Case) -> Breakdown:
    """The case is run once, and its products once more alone."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, times = Path(name), Path(name) / "times.json"
        _python, _m, _batchpipe, *arguments = command("batchpipe", case, folder / "out.parquet")
        timed_run = [sys.executable, str(TIMED_RUN), str(times), *arguments, "--device", "cpu"]
        run = measure(timed_run, folder, environment_of(case))
        ceiling = [sys.executable, str(GEMM_CEILING), str(times), case.dtype]
        alone = measure(ceiling, folder, environment_of(case)).summary
        told = json.loads(times.read_text())
    seconds = told["seconds"]
    seconds[STARTING] += run.wall_seconds - sum(seconds.values())  # before the script, and after
    return Breakdown(
        run.wall_seconds,
        run.summary["run_seconds"],
        run.peak_bytes,
        told["turns"] * TURN_SECONDS,
        seconds,
        sum(map(_flops, told["products"])),
        sum(alone["seconds"]),
    )


def _flops(products: Mapping[str, Any]) -> float:
    rows = sum(rows * calls for rows, calls in products["calls"])
    return 2.0 * rows * products["in_features"] * products["out_features"]


@click.command()
@click.option(
    "--prompts", type=click.Path(exists=True, path_type=Path), multiple=True, required=True
)
@click.option(
    "--shape", type=click.Choice(sorted(SHAPES)), default="smollm2-135m", show_default=True
)
@click.option("--rows", type=click.IntRange(min=1), help="Of each file, if not its usual cut.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of an answer, if not as usual.")
@click.option("--seed", type=int, default=7, show_default=True)
@click.option(
    "--dtype",
    "dtypes",
    type=click.Choice(("float32", "bfloat16")),
    multiple=True,
    default=("float32", "bfloat16"),
    show_default=True,
)
@click.option("--threads", type=click.IntRange(min=1), help="[default: cores]")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("~/.cache/batchpipe-bench"))
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(prompts: tuple[Path, ...], dtypes: tuple[str, ...], cache: Path, **options: Any) -> None:
    """Tell the parts of runs over shuffled cuts of PROMPTS."""
    model = cached_model(options["shape"], usual_files(prompts), cache.expanduser())
    for path in prompts:
        usual = WORKLOADS.get(path.stem, Workload(500, 1, 32))
        max_tokens = options["max_tokens"] or usual.max_tokens
        threads = options["threads"] or len(os.sched_getaffinity(0))
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            job = Path(name) / "job.parquet"
            write_cut(path, options["rows"] or usual.rows, usual.neighbours, options["seed"], job)
            counts = counted(model, job)
            for dtype in dtypes:
                found = break_down(Case(job, model, dtype, max_tokens, threads))
                asked = {"prompts": path.name, "shape": options["shape"], "dtype": dtype}
                asked |= {"threads": threads, "max_tokens": max_tokens, "seed": options["seed"]}
                print(f"\n{asked | counts}\n{found}", flush=True)
                if options["results"] is not None:
                    append_results(options["results"], asked | counts | found.facts(), found.rows())


if __name__ == "__main__":
    main()
