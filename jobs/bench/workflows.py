"""Workflows as one run beside the same steps one operator, or one row, at a time.

    python jobs/bench/workflows.py --workloads FOLDER --results jobs/bench/results/workflows.json

``FOLDER`` has openie_2wiki.parquet, mtbench_2turn.parquet and tot_game24.parquet (columns
request_id, prompt, workflow_id, stage); the models' tokenizer learns from them. The three DAGs of
`agent_dags.py` need nothing else. Every contender answers the same table in a fresh process, from
file to file, in the same dtype on as many threads:

    workflow    `batchpipe run --workflow`
    operators   `operator_at_a_time.py batchpipe`: each step is one plan of batchpipe's flat runner,
                all in one process that keeps its models
    commands    the same with a `batchpipe run` for each step that asks a model
    padded      the same through length-sorted batches of `model.generate`
    single      row by row, each prompt alone through `model.generate`

The last two answer the first rows of the table, and their time is told for all of it. In float32
the workflow's results must be those of ``single``, up to choices that rounding decides. Models are
of random weights; a step's answers end at its limit, or before it where the model ends them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import pyarrow.parquet as pq
from agent_dags import DAG_ROWS, DAGS, dag_case
from contest import cached_model
from flow_cases import RECORDED, FlowCase, Row
from models import SHAPES
from query_planning import planned
from record import append_results, as_table
from slow_host import slow_host
from whole_process import Finished, measure

HERE = Path(__file__).parent
WORKLOADS = (*RECORDED, *DAGS)
WAYS = {"operators": "batchpipe", "commands": "commands", "padded": "padded", "single": "single"}
CONTENDERS = ("workflow", *WAYS)
CLEAR_GAP = 1e-4  # between the two best logits; closer ones are decided by rounding
OWN_COLUMNS = ("status", "error")  # of a workflow's results
COUNTS = ("calls", "prompt_tokens", "computed_prompt_tokens", "completion_tokens", "tool_calls")
PLANNED_ROWS, PLANNED_STEPS = 10_000, 20


@dataclass(slots=True)
class Rounds:
    """The runs of one contender, how many rows it answered, and its last results."""

    rows: int
    finished: list[Finished] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)

    def seconds(self, rows: int) -> float:
        """Median time for so many rows: starting and loading once, answering in proportion."""
        return median(
            each.wall_seconds + each.summary["run_seconds"] * (rows / self.rows - 1)
            for each in self.finished
        )


@contextmanager
def built(
    name: str, prompts: Path, rows: int | None, models: Mapping[str, Path]
) -> Iterator[tuple[FlowCase, Path]]:
    """The workload and the folder in which it lies, with the host that it asks."""
    with ExitStack() as open_now:
        folder = Path(open_now.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        if name in RECORDED:
            make, usual = RECORDED[name]
            case = make(prompts / f"{name}.parquet", rows or usual)
        else:
            host = open_now.enter_context(slow_host())
            case = dag_case(name, rows or DAG_ROWS, host, folder)
        case.write(folder, dict(models))
        yield case, folder


def run_once(contender: str, folder: Path, rounds: Rounds, dtype: str) -> None:
    """One more run is in the rounds."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        out = Path(scratch) / "out.parquet"
        files = ["--dtype", dtype, "--out", str(out)]
        if contender == "workflow":
            source, flow = str(folder / "input.parquet"), str(folder / "flow.yaml")
            command = ["-m", "batchpipe", "run", source, "--workflow", flow, *files, "--json"]
        else:
            script = str(HERE / "operator_at_a_time.py")
            cut = ["--folder", str(folder), "--rows", str(rounds.rows)]
            command = [script, WAYS[contender], *cut, *files]
        rounds.finished.append(measure([sys.executable, *command], Path(scratch)))
        rounds.results = pq.read_table(out).to_pylist()


def compared(
    case: FlowCase, folder: Path, contenders: Sequence[str], repeat: int, dtype: str
) -> dict[str, Rounds]:
    """The runs of all contenders, round by round."""
    limits = {"padded": case.padded_rows, "single": case.single_rows}
    whole = len(case.table)
    rounds = {name: Rounds(min(whole, limits.get(name, whole))) for name in contenders}
    for turn in range(repeat):
        for name, of_name in rounds.items():
            run_once(name, folder, of_name, dtype)
            seconds = of_name.finished[-1].wall_seconds
            told = f"{of_name.rows} of {whole} rows in {seconds:.1f} s"
            print(f"  {turn + 1}/{repeat} {name}: {told}", file=sys.stderr)
    return rounds


def figures(rounds: Mapping[str, Rounds], rows: int) -> list[dict[str, Any]]:
    """A row for each contender: time for all rows, what it asked, and the same over ours."""
    table = []
    for name, each in rounds.items():
        last = each.finished[-1].summary
        row: dict[str, Any] = {
            "contender": name,
            "rows": each.rows,
            "seconds": round(each.seconds(rows), 2),
            "all_seconds": [round(run.wall_seconds, 2) for run in each.finished],
            "run_seconds": round(median(run.summary["run_seconds"] for run in each.finished), 2),
            "peak_bytes": max(run.peak_bytes for run in each.finished),
            **{count: last[count] for count in COUNTS if count in last},
        }
        if "by_step" in last:
            row["calls"] = sum(s["calls"] for s in last["by_step"].values() if s["prompt_tokens"])
            row["tool_calls"] = last["calls"] - row["calls"]
            row["by_step"] = last["by_step"]
        if "workflow" in rounds:
            ours = rounds["workflow"]
            row["over_workflow"] = round(each.seconds(rows) / ours.seconds(rows), 3)
            row |= agreement(ours.results, each.results)
        table.append(row)
    return table


def agreement(ours: Sequence[Row], theirs: Sequence[Row]) -> dict[str, Any]:
    """How many of their rows are clear, and how many of these we have as they do."""
    clear = same = 0
    for our, their in zip(ours, theirs, strict=False):
        if their.get("least_gap", float("inf")) > CLEAR_GAP:
            clear += 1
            shown = their.keys() - {"least_gap", *OWN_COLUMNS}
            same += all(our[label] == their[label] for label in shown)
    return {"clear_rows": clear, "same_rows": same}


def readable(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures as a person reads them."""
    return [
        {
            "contender": row["contender"],
            "s": f"{row['seconds']:.1f}",
            "times ours": f"{row.get('over_workflow', 1):.2f}",
            "rows": row["rows"],
            "LLM calls": f"{row['calls']:,}",
            "prompt tokens": f"{row['prompt_tokens']:,}",
            "computed": f"{row['computed_prompt_tokens']:,}",
            "written": f"{row['completion_tokens']:,}",
            "tool calls": row.get("tool_calls", 0),
            "peak MB": f"{row['peak_bytes'] / 1e6:,.0f}",
            "same": f"{row.get('same_rows', 0)}/{row.get('clear_rows', 0)}",
        }
        for row in table
    ]


def _names(_context: click.Context, option: click.Parameter, value: str) -> list[str]:
    allowed = CONTENDERS if option.name == "contenders" else (*WORKLOADS, "planning")
    names = value.split(",")
    wrong = [name for name in names if name not in allowed]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is none of {', '.join(allowed)}")
    return names


@click.command()
@click.option("--workloads", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--only", default=",".join((*WORKLOADS, "planning")), callback=_names)
@click.option("--contenders", default=",".join(CONTENDERS), callback=_names)
@click.option("--rows", type=click.IntRange(min=1), help="Of each table, if not as usual.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
@click.option("--repeat", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--large", type=click.Choice(sorted(SHAPES)), default="llama-25m", show_default=True)
@click.option("--small", type=click.Choice(sorted(SHAPES)), default="llama-8m", show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("~/.cache/batchpipe-bench"))
@click.option("--results", type=click.Path(path_type=Path), help="A JSON file to append to.")
def main(workloads: Path, only: list[str], cache: Path, **given: Any) -> None:
    """Measure workflows, some of them over the prompt files in WORKLOADS."""
    files = [path for name in RECORDED if (path := workloads / f"{name}.parquet").exists()]
    shapes = {"a": given["large"], "b": given["small"]}
    models = {
        name: cached_model(shape, files, cache.expanduser(), ["--whole-words"])
        for name, shape in shapes.items()
    }
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    different = []
    for name in only:
        if name == "planning":
            row = {"rows": PLANNED_ROWS, "steps": PLANNED_STEPS}
            row["seconds"] = round(planned(PLANNED_ROWS, PLANNED_STEPS).seconds, 2)
            report({"workload": name}, [row], [row], given["results"])
            continue
        with built(name, workloads, given["rows"], models) as (case, folder):
            different += measure_case(name, case, folder, given)
    if different:
        raise click.ClickException(f"results are not those of the workflow: {', '.join(different)}")


def measure_case(name: str, case: FlowCase, folder: Path, given: Mapping[str, Any]) -> list[str]:
    """The workload is measured, told and kept. Returns whose results differ."""
    began = time.perf_counter()
    rounds = compared(case, folder, given["contenders"], given["repeat"], given["dtype"])
    table = figures(rounds, len(case.table))
    asked = {key: given[key] for key in ("dtype", "repeat", "large", "small")}
    facts = {"workload": name, "rows": len(case.table)} | asked | case.facts
    facts["bench_seconds"] = round(time.perf_counter() - began)
    report(facts, table, readable(table), given["results"])
    if given["dtype"] != "float32":
        return []
    return [f"{name}: {row['contender']}" for row in table if _differs(row)]


def report(facts: Row, table: Sequence[Row], shown: Sequence[Row], results: Path | None) -> None:
    """The figures are printed and, where a file is named, kept."""
    print(f"\n{json.dumps(facts)}\n{as_table(shown)}", flush=True)
    if results is not None:
        append_results(results, facts, table)


def _differs(row: Mapping[str, Any]) -> bool:
    """Only ``single`` knows which choices were clear."""
    return row["contender"] == "single" and row.get("same_rows") != row.get("clear_rows")


if __name__ == "__main__":
    main()
