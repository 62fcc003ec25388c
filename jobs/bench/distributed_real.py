"""What Ray workers are worth on this machine, and that kills lose nothing.

    python jobs/bench/distributed_real.py speed --rows 4000
    python jobs/bench/distributed_real.py kills --workers 50 --drivers 20

Each worker has one thread, for every node of the cluster, all of them on this machine, has one CPU.

**speed** runs one job on one worker and on two, in turns, and compares the seconds of answering
(`run_seconds`: without planning, starting and loading). Bars: two workers are at least 1.8 times as
fast, keep at least 95 % of the sharing, and answer the same, byte for byte.

**kills** kills random workers at random moments, several in a run, and then random drivers, whose
command is given again until the run is done. Bars: no row lost, none doubled, none other than an
undisturbed run's, save those that are given up, and say so, since three workers died on them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
from faults import write_job
from record import append_results, as_table

import batchpipe.integrations.ray  # noqa: F401  it tells Ray to report to nobody
from batchpipe.demo.prompt import MODEL_DIR

RESULTS = Path(__file__).with_name("results") / "distributed_real.json"
LEAST_SPEEDUP, LEAST_SHARING = 1.8, 0.95
ASKED = ("--dtype", "float32", "--max-tokens", "24", "--ignore-eos")
DIFFERS_BY_WORKER = ["cached_tokens"]
GIVEN_UP = "workers died one after the other"
STOPPED_EARLY = 75  # the exit code of a run that the same command goes on with

USUAL = ("-m", "batchpipe")
# Results go to disk at once: what a killed driver has written is then all that it was told.
AT_ONCE = """
import sys
from batchpipe.journal import journal
journal.FLUSH_SECONDS = 0.1
from batchpipe.cli import main
main(sys.argv[1:])
"""
IMPATIENT = ("-c", AT_ONCE)


@contextmanager
def cluster_of(nodes: int) -> Iterator[Any]:
    """So many Ray nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(nodes - 1):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    try:
        yield made
    finally:
        made.shutdown()


def started(
    program: tuple[str, str], job: Path, model: Path, out: Path, *more: object
) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    command = ("run", job, "-m", model, "-o", out, *ASKED, "--json", *more)
    return subprocess.Popen(
        [sys.executable, *program, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a run said that came to its end."""
    said, _ = process.communicate()
    if process.returncode not in (0, 3):  # 3: the job has rows that cannot run
        raise click.ClickException(f"a run ended with exit code {process.returncode}")
    return dict(json.loads(said))


def workers_in(cluster: Any) -> list[int]:
    """The processes of workers that answer prompts, or will."""
    nodes = {
        each.process.pid
        for node in cluster.list_all_nodes()
        for each in node.all_processes.get("raylet", ())
    }
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        if title.startswith((b"ray::Worker", b"ray::Host")) and parent in nodes:
            pids.append(int(folder.name))
    return pids


@click.group()
def commands() -> None:
    """Ray workers on this machine."""


@commands.command()
@click.option("--rows", default=4000, show_default=True)
@click.option("--model", type=click.Path(path_type=Path), default=MODEL_DIR)
@click.option("--job", type=click.Path(path_type=Path), help="Instead of the shipped tickets.")
@click.option("--repeat", default=3, show_default=True)
@click.option("--record", is_flag=True, help=f"Append the figures to {RESULTS.name}.")
def speed(rows: int, model: Path, job: Path | None, repeat: int, record: bool) -> None:
    """Two workers against one."""
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder, cluster_of(2) as cluster:
        source = job or write_job(Path(folder) / "job.parquet", rows)
        for number in range(repeat):
            for workers in (1, 2):
                out = Path(folder) / f"{workers}-{number}.parquet"
                on = ("--workers", workers, "--ray-address", cluster.address)
                found[workers].append(summary_of(started(USUAL, source, model, out, *on)))
        answers = [
            pq.read_table(Path(folder) / f"{workers}-0.parquet").drop_columns(DIFFERS_BY_WORKER)
            for workers in (1, 2)
        ]
    seconds = {n: statistics.median(each["run_seconds"] for each in found[n]) for n in found}
    reused = {
        n: statistics.median(each["reused_prompt_tokens"] for each in found[n]) for n in found
    }
    idle = [worker["idle_share"] for each in found[2] for worker in each["workers"]]
    figures = {
        "rows": found[1][0]["rows"],
        "one worker s": round(seconds[1], 2),
        "two workers s": round(seconds[2], 2),
        "speedup": round(seconds[1] / seconds[2], 3),
        "sharing kept": round(reused[2] / max(1, reused[1]), 4),
        "idle share": round(statistics.mean(idle), 4),
        "equal": answers[0].equals(answers[1]),
    }
    good = figures["speedup"] >= LEAST_SPEEDUP and figures["sharing kept"] >= LEAST_SHARING
    told({"command": "speed", "model": model.name, "repeat": repeat}, figures, record)
    sys.exit(0 if good and figures["equal"] else 1)


@dataclass(slots=True)
class Tally:
    """What became of the rows of all disturbed runs."""

    runs: int = 0
    worker_kills: int = 0
    driver_kills: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    given_up: int = 0  # three workers died in a row before one had answered anything beside them


@commands.command()
@click.option("--workers", default=50, show_default=True, help="Workers to kill.")
@click.option("--drivers", default=20, show_default=True, help="Drivers to kill.")
@click.option("--rows", default=600, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--record", is_flag=True, help=f"Append the figures to {RESULTS.name}.")
def kills(workers: int, drivers: int, rows: int, seed: int, record: bool) -> None:
    """Nothing is lost, whoever is killed."""
    tally, chance = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as name, cluster_of(2) as cluster:
        folder = Path(name)
        job = write_job(folder / "job.parquet", rows)
        on = ("--workers", 2, "--ray-address", cluster.address)
        undisturbed = folder / "undisturbed.parquet"
        summary_of(started(IMPATIENT, job, MODEL_DIR, undisturbed, *on))
        while tally.worker_kills < workers or tally.driver_kills < drivers:
            out = folder / f"{tally.runs}.parquet"
            process = started(IMPATIENT, job, MODEL_DIR, out, *on)
            if tally.worker_kills < workers:
                tally.worker_kills += killed_workers(
                    process, out, cluster, chance, workers - tally.worker_kills
                )
                if process.wait() == STOPPED_EARLY:  # too often, before a new one was ready
                    process = started(IMPATIENT, job, MODEL_DIR, out, *on)
            else:
                while tally.driver_kills < drivers and killed_driver(process, out, chance):
                    tally.driver_kills += 1
                    process = started(IMPATIENT, job, MODEL_DIR, out, *on)
            summary_of(process)
            compare(undisturbed, out, tally)
            click.echo(f"{asdict(tally)}", err=True)
    told({"command": "kills", "rows": rows, "seed": seed}, asdict(tally), record)
    sys.exit(1 if tally.lost or tally.doubled or tally.different else 0)


def killed_workers(
    process: subprocess.Popen[str], out: Path, cluster: Any, chance: random.Random, most: int
) -> int:
    """Random workers have died while the run went on; how many."""
    killed = 0
    while process.poll() is None and killed < most:
        time.sleep(chance.uniform(0.2, 3.0))
        pids = workers_in(cluster)
        if pids and begun(out) and process.poll() is None:
            os.kill(chance.choice(pids), signal.SIGKILL)
            killed += 1
    return killed


def killed_driver(process: subprocess.Popen[str], out: Path, chance: random.Random) -> bool:
    """The run was killed at a random moment of its answering; false where it was faster."""
    parts = begun(out)
    while process.poll() is None and begun(out) <= parts:
        time.sleep(0.01)
    time.sleep(chance.uniform(0.0, 1.0))
    if process.poll() is not None:
        return False
    process.kill()
    process.communicate()
    return True


def begun(out: Path) -> int:
    """Parts with results that the run has on disk."""
    return len(list((Path(f"{out}.run") / "parts").glob("*")))


def compare(expected: Path, out: Path, tally: Tally) -> None:
    """The results are counted against those of a run that nobody disturbed."""
    wanted = {row["request_id"]: row for row in _rows(expected)}
    rows = _rows(out)
    names = [row["request_id"] for row in rows]
    tally.runs += 1
    tally.rows += len(rows)
    tally.lost += len(wanted.keys() - set(names))
    tally.doubled += len(names) - len(set(names))
    changed = [row for row in rows if row != wanted.get(row["request_id"])]
    given_up = sum(GIVEN_UP in (row["error"] or "") for row in changed)
    tally.given_up += given_up
    tally.different += len(changed) - given_up


def _rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).drop_columns(DIFFERS_BY_WORKER).to_pylist()  # type: ignore[no-any-return]


def told(job: dict[str, Any], figures: dict[str, Any], record: bool) -> None:
    """The figures are printed and, where asked for, kept."""
    click.echo(as_table([figures]))
    if record:
        append_results(RESULTS, job, [figures])


if __name__ == "__main__":
    commands()
