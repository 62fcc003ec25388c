"""The Airflow integration in a real Airflow, which is an environment of its own, without torch.

Airflow's interpreter starts tasks; this one, where batchpipe is whole, answers the rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchpipe.background.room import log_path, room_of
from batchpipe.background.watch import Ended, launch, look
from batchpipe.config import JobOptions, RunOptions
from batchpipe.demo.prompt import MODEL_DIR, load_tickets, messages
from batchpipe.journal.folder import open_folder
from batchpipe.journal.lock import holder
from batchpipe.journal.manifest import Manifest, read_manifest
from batchpipe.running.job import run

# An environment with Airflow and batchpipe: BATCHPIPE_AIRFLOW_PYTHON=/path/to/venv/bin/python
PYTHON = os.environ.get("BATCHPIPE_AIRFLOW_PYTHON")

pytestmark = pytest.mark.skipif(PYTHON is None, reason="BATCHPIPE_AIRFLOW_PYTHON names no Airflow")

ROOT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
DAY = "2026-01-01"
ROWS = 60

# Stands for the Python of the workers: every step's results go to disk at once, so that a test sees
# from outside that a run is under way. Its arguments are `-P -m MODULE RUN_DIR COMMAND...`.
IMPATIENT = """#!/bin/sh
shift 3
exec {python} -P -c '
import sys
from batchpipe.journal import journal
journal.FLUSH_SECONDS = 0.0
from batchpipe.background.process import main
main(sys.argv[1:])' "$@"
"""


@dataclass
class Airflow:
    """An Airflow with a database of its own, and a folder of job files for its DAGs."""

    home: Path
    folder: Path
    python: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, dags: Path) -> dict[str, str]:
        return os.environ | {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "BATCHPIPE_PYTHON": sys.executable,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str, dags: Path = DAGS) -> subprocess.Popen[str]:
        with (self.folder / "airflow.log").open("a") as log:
            process = subprocess.Popen(
                [str(PYTHON), "-m", "airflow", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment(dags),
                cwd=self.folder,
            )
        self.started.append(process)
        return process

    def start_dag(self, dag: str, dags: Path = DAGS, **params: str) -> subprocess.Popen[str]:
        given = {"folder": str(self.folder), "python": str(self.python), **params}
        return self.start("dags", "test", dag, DAY, "-c", json.dumps(given), dags=dags)

    def run_dag(self, dag: str, dags: Path = DAGS, **params: str) -> str:
        """What it said; all its tasks have ended."""
        before = len(self.said())
        self.start_dag(dag, dags, **params).wait()
        return self.said()[before:]

    def said(self) -> str:
        path = self.folder / "airflow.log"
        return path.read_text() if path.exists() else ""

    def states(self, dag: str) -> dict[str, str]:
        """Its tasks' states in the last run."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            rows = database.execute(
                "SELECT task_id, state, MAX(start_date) FROM task_instance "
                "WHERE dag_id = ? GROUP BY task_id",
                (dag,),
            )
            return {name: state for name, state, _ in rows}

    @property
    def run_dir(self) -> str:
        return str(self.folder / "out.parquet.run")

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "manifest.json").read_text()))

    def journal(self) -> Manifest:
        manifest = read_manifest(open_folder(self.run_dir))
        assert manifest is not None
        return manifest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("airflow")
    made = Airflow(path, path, path)
    assert made.start("db", "migrate").wait() == 0, made.said()
    return path


@pytest.fixture
def airflow(home: Path, tmp_path: Path) -> Iterator[Airflow]:
    """With 60 tickets to answer; whatever a failed test leaves running is killed."""
    rows = [{"messages": messages(ticket.text)} for ticket in load_tickets()[:ROWS]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    python = tmp_path / "python"
    python.write_text(IMPATIENT.format(python=sys.executable))
    python.chmod(0o755)
    ready = Airflow(home, tmp_path, python)
    yield ready
    for process in ready.started:
        process.kill()
        process.wait()
    if (who := holder(room_of(ready.run_dir))) is not None:
        os.kill(who.pid, signal.SIGKILL)


def wait_for_rows(airflow: Airflow, parts: int = 1) -> Manifest:
    """The run has so many parts at least, and goes on."""
    while True:
        run = read_manifest(open_folder(airflow.run_dir))
        if run is not None and len(run.parts) >= parts:
            assert look(airflow.run_dir) is None, airflow.said()
            return run
        assert airflow.started[-1].poll() is None, airflow.said()
        time.sleep(0.02)


def end_of(run_dir: str) -> Ended:
    while (ended := look(run_dir)) is None:
        time.sleep(0.05)
    return ended


def undisturbed(airflow: Airflow) -> list[dict[str, Any]]:
    """The results of the same run without Airflow."""
    out = airflow.folder / "alone.parquet"
    options = JobOptions(
        str(airflow.folder / "in.parquet"),
        str(MODEL_DIR),
        sampling={"max_tokens": 24},
        dtype="float32",
    )
    run(options, RunOptions(str(out), step_tokens=24))
    return outputs(out)


def outputs(path: Path) -> list[dict[str, Any]]:
    names = ["output", "status", "finish_reason", "completion_tokens"]
    return list(pq.read_table(path, columns=names).to_pylist())


def refuse_double_pay(before: Manifest, after: Manifest) -> None:
    """What was on disk before the kill was not computed again."""
    assert len(after.sessions) > len(before.sessions)
    assert after.sessions[len(before.sessions)].rows_before >= sum(p.rows for p in before.parts)
    assert sum(part.rows for part in after.parts) == after.rows  # no row twice


def test_providers_list_shows_batchpipe(airflow: Airflow) -> None:
    assert airflow.start("providers", "list", "-o", "json").wait() == 0
    assert '"package_name": "batchpipe"' in airflow.said()


def test_airflow_loads_no_torch(airflow: Airflow) -> None:
    check = (
        "import batchpipe.integrations.airflow.operator, batchpipe.integrations.airflow.decorator, "
        "batchpipe.integrations.airflow.rows_file, sys; "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [str(PYTHON), "-c", check],
        capture_output=True,
        text=True,
        env=airflow.environment(DAGS),
        cwd=airflow.folder,  # not the sources, which `-c` would find before what is installed
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "set()"


def test_nightly_labels_go_from_parquet_to_parquet(airflow: Airflow) -> None:
    tickets = load_tickets()[:12]
    table = pa.table({"text": [ticket.text for ticket in tickets]})
    pq.write_table(table, airflow.folder / f"tickets-{DAY}.parquet")
    said = airflow.run_dag("nightly_labels", ROOT / "jobs" / "airflow")
    assert airflow.states("nightly_labels") == {"label": "success", "count": "success"}, said
    labels = pq.read_table(airflow.folder / f"labels-{DAY}.parquet")
    assert labels["text"].to_pylist() == table["text"].to_pylist()
    right = [
        json.loads(output)["category"] == ticket.label.category
        for output, ticket in zip(labels["output"].to_pylist(), tickets, strict=True)
    ]
    assert sum(right) >= 11


def test_manifest_and_rows_are_those_of_the_run(airflow: Airflow) -> None:
    said = airflow.run_dag("labels")
    assert airflow.states("labels") == {"answer": "success", "keep": "success"}, said
    assert f"{ROWS} of {ROWS} rows answered" in said
    manifest = airflow.manifest
    assert (manifest["request_count"], manifest["counts"]["succeeded"]) == (ROWS, ROWS)
    assert manifest["result_uri"] == str(airflow.folder / "rows.jsonl")
    assert manifest["terminal_reason"] == "succeeded"
    rows = [json.loads(line) for line in Path(manifest["result_uri"]).read_text().splitlines()]
    alone = undisturbed(airflow)
    assert [row["output"] for row in rows] == [row["output"] for row in alone]
    assert outputs(airflow.folder / "out.parquet") == alone

    again = airflow.run_dag("labels")  # the task is cleared: there is nothing to do
    assert "this run is complete, nothing to do" in again
    assert airflow.manifest == manifest


def test_a_killed_worker_and_run_go_on_and_pay_nothing_twice(airflow: Airflow) -> None:
    worker = airflow.start_dag("labels")
    wait_for_rows(airflow)
    who = holder(room_of(airflow.run_dir))
    assert who is not None
    worker.kill()
    os.kill(who.pid, signal.SIGKILL)
    assert end_of(airflow.run_dir).code is None
    before = airflow.journal()
    said = airflow.run_dag("labels")
    assert airflow.states("labels")["answer"] == "success", said
    refuse_double_pay(before, airflow.journal())
    assert outputs(airflow.folder / "out.parquet") == undisturbed(airflow)


def test_the_next_try_waits_for_a_run_that_outlived_its_worker(airflow: Airflow) -> None:
    worker = airflow.start_dag("labels")
    wait_for_rows(airflow)
    os.kill(who := _pid(airflow), signal.SIGSTOP)  # it is still at work when the next try looks
    worker.kill()
    worker.wait()
    second = airflow.start_dag("labels")
    while "this one waits for it" not in airflow.said():
        assert second.poll() is None, airflow.said()
        time.sleep(0.1)
    os.kill(who, signal.SIGCONT)
    second.wait()
    assert airflow.states("labels") == {"answer": "success", "keep": "success"}, airflow.said()
    assert len(airflow.journal().sessions) == 1


def test_a_task_that_is_told_to_stop_stops_its_run_resumably(airflow: Airflow) -> None:
    worker = airflow.start_dag("labels")
    before = wait_for_rows(airflow)
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    ended = look(airflow.run_dir)
    assert ended is not None
    assert ended.code == 75
    assert airflow.states("labels")["answer"] == "failed"
    said = airflow.run_dag("labels")
    assert airflow.states("labels")["answer"] == "success", said
    refuse_double_pay(before, airflow.journal())


def test_a_deferred_task_is_answered_in_the_background(airflow: Airflow) -> None:
    said = airflow.run_dag("deferred")
    assert airflow.states("deferred") == {"answer": "success", "keep": "success"}, said
    assert f"of {ROWS} rows finished" in said  # by the trigger
    assert f"{ROWS} of {ROWS} rows answered" in said  # by the run
    assert airflow.manifest["counts"]["succeeded"] == ROWS


# As another triggerer would go on: all it gets is what the first one's trigger has serialized.
TRIGGER = """
import asyncio, json, sys
from airflow.sdk._shared.module_loading import import_string
from batchpipe.integrations.airflow import BatchPipeTrigger

async def first_event(trigger):
    return await anext(trigger.run())

async def main(run_dir, kill):
    kind, arguments = BatchPipeTrigger(run_dir, 0.1, {'is_ours': True}).serialize()
    trigger = import_string(kind)(**json.loads(json.dumps(arguments)))
    abandoned = asyncio.ensure_future(first_event(trigger))
    await asyncio.sleep(0.5)
    abandoned.cancel()
    trigger = import_string(kind)(**arguments)
    waiting = asyncio.ensure_future(first_event(trigger))
    if kill:
        await asyncio.sleep(0.5)
        await trigger.on_kill()
    print(json.dumps((await waiting).payload))

asyncio.run(main(sys.argv[1], sys.argv[2] == "kill"))
"""


@pytest.mark.parametrize(("act", "code"), [("wait", 0), ("kill", 75)])
def test_another_triggerer_waits_on_and_may_stop_the_run(
    act: str, code: int, airflow: Airflow
) -> None:
    words = ["run", str(airflow.folder / "in.parquet"), "-m", str(MODEL_DIR)]
    words += ["-o", str(airflow.folder / "out.parquet"), "--step-tokens", "24"]
    process = launch(str(airflow.python), words, airflow.run_dir, {"OMP_NUM_THREADS": "1"})
    ran = subprocess.run(
        [str(PYTHON), "-c", TRIGGER, airflow.run_dir, act],
        capture_output=True,
        text=True,
        env=airflow.environment(DAGS),
    )
    assert process.wait() == code
    assert ran.returncode == 0, ran.stderr
    event = json.loads(ran.stdout.splitlines()[-1])
    assert (event["code"], event["is_ours"]) == (code, True)


def test_a_function_s_rows_are_answered(airflow: Airflow) -> None:
    said = airflow.run_dag("decorated")
    assert airflow.states("decorated") == {"rows": "success", "keep": "success"}, said
    assert airflow.manifest["request_count"] == 3
    again = airflow.run_dag("decorated")
    assert "this run is complete, nothing to do" in again


def test_what_no_retry_mends_fails_at_once_and_clearly(airflow: Airflow) -> None:
    bad = airflow.folder / "bad.jsonl"
    bad.write_text('{"prompt": "Tell them"}\n{"prompt": null}\n')
    bare = airflow.folder / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E -I "$@"\n')
    bare.chmod(0o755)
    said = airflow.run_dag("failing", bare=str(bare))
    assert airflow.states("failing") == {
        "no_input": "failed",  # not "up_for_retry"
        "no_package": "failed",
        "bad_row": "failed",
        "bad_row_tolerated": "success",
    }, said
    assert f"{airflow.folder}/gone.parquet does not exist" in said
    assert f"{bare} cannot run batchpipe" in said
    assert "1 of 2 rows failed (1 of them, the first 1: " in said
    assert f"batchpipe retry {airflow.folder}/c.parquet.run --status error" in said
    assert Path(log_path(str(airflow.folder / "c.parquet.run"))).exists()


def _pid(airflow: Airflow) -> int:
    who = holder(room_of(airflow.run_dir))
    assert who is not None
    return who.pid
