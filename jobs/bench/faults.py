"""Nothing is lost: runs killed at random and at every commit.

    python jobs/bench/faults.py kills --kills 200
    python jobs/bench/faults.py moments

Both run the shipped demo model over its tickets, with duplicates, sampled rows and rows that cannot
run among them, and compare each resumed run with one that nobody disturbed.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
from killing import Session, committed, session
from record import append_results, as_table

from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages

RESULTS = Path(__file__).with_name("results") / "faults.json"
MAX_TOKENS = 12  # some answers are whole with so many, and some are cut
DIFFERS_BY_SESSION = ["cached_tokens"]  # a prefix that two sessions need is computed in both
OFTEN: Any = {"flush_seconds": 0.0, "merged_parts": 4}  # commits of a short run


@dataclass(slots=True)
class Tally:
    """What became of the rows of all disturbed runs."""

    runs: int = 0
    kills: int = 0
    rows: int = 0
    lost: int = 0  # without a result
    doubled: int = 0  # with more than one
    different: int = 0  # from the undisturbed run's
    recomputed: int = 0  # answered although a committed result was there
    in_flight: int = 0  # answered again, for a kill came before their commit
    where: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        """Nothing went wrong."""
        return not (self.lost or self.doubled or self.different or self.recomputed)

    def as_row(self) -> dict[str, int]:
        """All but where."""
        names = [name for name in self.__dataclass_fields__ if name != "where"]
        return {name: getattr(self, name) for name in names}


def write_job(path: Path, rows: int) -> Path:
    """Tickets; every 10th row a duplicate, every 7th sampled, every 25th without a prompt."""
    tickets = load_tickets()
    lines = []
    for row in range(rows):
        ticket = tickets[(row - row % 10 // 9) % len(tickets)]
        lines.append(
            {
                "request_id": f"r{row}",
                "messages": None if row % 25 == 24 else messages(ticket.text),
                "temperature": 0.8 if row % 7 == 6 else None,
                "tags": [ticket.label.category, None],
            }
        )
    pq.write_table(pa.Table.from_pylist(lines), path)
    return path


def run_command(job: Path, out: Path) -> list[object]:
    """The run that is disturbed; float32, so that its answers do not hang on the batches."""
    limits = ("--max-tokens", MAX_TOKENS, "--dtype", "float32", "--step-tokens", 256)
    return ["run", job, "-m", MODEL_DIR, "-o", out, *limits]


def retry_command(run_dir: Path) -> list[object]:
    """Cut answers are asked once more, a little longer."""
    return ["retry", run_dir, "--finish-reason", "length", "--set", f"max_tokens={MAX_TOKENS + 8}"]


def compare(out: Path, expected: pa.Table, tally: Tally) -> None:
    """Lost, doubled and different rows of OUT go to the tally."""
    found = pq.read_table(out, use_threads=False).drop_columns(DIFFERS_BY_SESSION)
    ids = Counter(found["request_id"].to_pylist())
    tally.rows += expected.num_rows
    tally.lost += sum(not ids[name] for name in expected["request_id"].to_pylist())
    tally.doubled += sum(count > 1 for count in ids.values())
    if not found.equals(expected, check_metadata=True):
        pairs = zip(found.to_pylist(), expected.to_pylist(), strict=False)
        tally.different += max(1, sum(one != other for one, other in pairs))


def count_again(ran: Session, before: set[int], answered: set[int], tally: Tally) -> None:
    """Rows that this session answered although another had."""
    tally.recomputed += sum(row in before for row in ran.answered)
    tally.in_flight += sum(row in answered and row not in before for row in ran.answered)
    tally.doubled += sum(count > 1 for count in Counter(ran.answered).values())


def undisturbed(job: Path, folder: Path, *, retried: bool) -> tuple[list[Session], pa.Table]:
    """The sessions of a run, and of a retry after it, with the results at the end."""
    out = folder / "undisturbed.parquet"
    often = OFTEN if retried else {}
    sessions = [session(run_command(job, out), folder, **often)]
    if retried:
        sessions.append(session(retry_command(Path(f"{out}.run")), folder, **often))
    assert all(ran.code == 3 for ran in sessions), (folder / "said").read_text()[-2000:]
    table = pq.read_table(out, use_threads=False).drop_columns(DIFFERS_BY_SESSION)
    return sessions, table


@click.group()
def commands() -> None:
    """Faults, and what they cost."""


@commands.command()
@click.option("--kills", "wanted", default=200, show_default=True)
@click.option("--rows", default=400, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--record/--no-record", default=False)
def kills(wanted: int, rows: int, seed: int, record: bool) -> None:
    """SIGKILL at random moments of real runs, each resumed until it is complete."""
    draw, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = write_job(folder / "job.parquet", rows)
        [whole], expected = undisturbed(job, folder, retried=False)
        while tally.kills < wanted:
            out = folder / f"run-{tally.runs}.parquet"
            for ran in disturbed(run_command(job, out), out, draw, whole.seconds, folder, tally):
                assert ran.code in (3, -9), (folder / "said").read_text()[-2000:]
            compare(out, expected, tally)
            tally.runs += 1
    finish({"kind": "kills at random", "rows": rows, "seed": seed}, tally, record)


def disturbed(
    command: list[object],
    out: Path,
    draw: random.Random,
    seconds: float,
    folder: Path,
    tally: Tally,
) -> Iterator[Session]:
    """The sessions of one run, all but the last killed within the time of a whole one."""
    run_dir = Path(f"{out}.run")
    answered: set[int] = set()
    code = -9
    while code == -9:
        before = committed(run_dir)
        ran = session(command, folder, kill_after=draw.uniform(0, 1.1 * seconds))
        code = ran.code
        tally.kills += code == -9
        count_again(ran, before, answered, tally)
        answered.update(ran.answered)
        yield ran


@commands.command()
@click.option("--rows", default=100, show_default=True)
@click.option("--once", is_flag=True, help="Only the first time of each.")
@click.option("--record/--no-record", default=False)
def moments(rows: int, once: bool, record: bool) -> None:
    """SIGKILL at every named moment of a run and of a retry: its first, middle and last time."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = write_job(folder / "job.parquet", rows)
        sessions, expected = undisturbed(job, folder, retried=True)
        for retried, whole in enumerate(sessions):
            for moment, times in Counter(whole.moments).items():
                for time_of in {1} if once else sorted({1, (times + 1) // 2, times}):
                    out = folder / f"run-{tally.runs}.parquet"
                    kill_once(job, out, bool(retried), (moment, time_of), folder, tally)
                    compare(out, expected, tally)
                    tally.runs += 1
    for moment, count in tally.where.items():
        click.echo(f"{count:>4}  {moment}")
    finish({"kind": "kills at every commit", "rows": rows}, tally, record)


def kill_once(
    job: Path, out: Path, retried: bool, at: tuple[str, int], folder: Path, tally: Tally
) -> None:
    """The run and its retry come to their ends although one of them is killed there."""
    run_dir = Path(f"{out}.run")
    for command in (run_command(job, out), retry_command(run_dir)):
        kill_at = at if retried == (command[0] == "retry") else None
        first = session(command, folder, kill_at=kill_at, **OFTEN)
        if first.code == -9:
            tally.kills += 1
            tally.where[f"{command[0]}: {at[0]}"] += 1
            before = committed(run_dir)
            again = session(command, folder)
            if command[0] == "run":  # a retry answers committed rows once more, by its nature
                count_again(again, before, set(first.answered), tally)
            assert again.code == 3, (folder / "said").read_text()[-2000:]
        else:
            assert first.code == 3, (folder / "said").read_text()[-2000:]


def finish(job: dict[str, Any], tally: Tally, record: bool) -> None:
    """The tally is printed, recorded where asked for, and decides the exit code."""
    click.echo(as_table([tally.as_row()]))
    if record:
        append_results(RESULTS, job, [tally.as_row()])
    sys.exit(0 if tally.good else 1)


if __name__ == "__main__":
    commands()
