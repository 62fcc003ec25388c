"""Waits for a run in the background without a worker; a restarted triggerer waits on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from batchpipe.background.watch import look, stop
from batchpipe.errors import BatchpipeError
from batchpipe.journal.folder import open_folder
from batchpipe.journal.manifest import read_manifest


class BatchPipeTrigger(BaseTrigger):
    """Fires once the run's process has ended, with how; all it knows is on disk.

    The triggerer must see the run directory as the worker does.
    """

    def __init__(self, run_dir: str, poll_seconds: float, handed_on: dict[str, Any]) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.poll_seconds = poll_seconds
        self.handed_on = handed_on  # what the task wants to know again afterwards

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """By which another triggerer makes the same trigger."""
        kind = type(self)
        arguments = {
            "run_dir": self.run_dir,
            "poll_seconds": self.poll_seconds,
            "handed_on": self.handed_on,
        }
        return f"{kind.__module__}.{kind.__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: the fields of `Ended` and what is handed on.

        Every change of the finished rows goes to the task's log.
        """
        told = ""
        while (ended := await asyncio.to_thread(look, self.run_dir)) is None:
            told, before = await asyncio.to_thread(finished_rows, self.run_dir), told
            if told != before:
                self.log.info(told)
            await asyncio.sleep(self.poll_seconds)
        yield TriggerEvent({**self.handed_on, **asdict(ended)})

    async def on_kill(self) -> None:
        """A task that its user fails or clears stops its run, resumably (Airflow 3.3 and newer)."""
        try:
            await asyncio.to_thread(stop, self.run_dir)
        except BatchpipeError as error:
            self.log.warning(str(error))


def finished_rows(run_dir: str) -> str:
    """How far the run is by its last commit; empty where it has made none."""
    try:
        run = read_manifest(open_folder(run_dir))
    except (BatchpipeError, OSError):
        return ""  # it says so itself, and ends
    if run is None or run.rows is None or not run.pace:
        return ""
    return f"{run.pace[-1][1]:,} of {run.rows:,} rows finished"
