"""Rows' questions to databases, hosts and functions."""

from __future__ import annotations

from batchpipe.rows.template import RenderError
from batchpipe.workflow.journal.tallies import Tallies
from batchpipe.workflow.kinds.prepared import Prepared
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.running.asking import Desk, Task


class ToolAsking:
    """The tasks of steps that ask no model and are not computed at once."""

    def __init__(self, prepared: Prepared, tallies: Tallies, desk: Desk) -> None:
        self._prepared, self._tallies, self._desk = prepared, tallies, desk
        self._benches = list({id(each): each for each in prepared.benches.values()}.values())

    @property
    def unfinished(self) -> int:
        """Calls that wait or are under way."""
        return sum(bench.unfinished for bench in self._benches)

    def begin(self, task: Task) -> None:
        """The row is ready for the step: it is asked once there is room."""
        self._desk.take(task)
        try:
            call = self._prepared.tool_steps[task.step].call(task.row.scope)
        except RenderError as bad:
            self._desk.answered(task, Outcome(error=str(bad)))
            return
        collapses = self._prepared.graph.by_name[task.step].collapses and call.make is not None
        if not collapses or self._desk.must_ask(task, call.digest):
            self._tallies[task.step].calls += 1
            self._prepared.benches[task.step].add(task, call)

    def go_on(self) -> None:
        """Whatever there is room for is under way."""
        for bench in self._benches:
            bench.begin()

    def take(self) -> bool:
        """What has been answered is the rows'; true where that was anything."""
        found = [each for bench in self._benches for each in bench.finished()]
        for task, outcome in found:
            self._desk.answered(task, outcome)
        return bool(found)

    def wait(self, seconds: float) -> None:
        """Nothing else is to be done until a call ends, or for so long."""
        busy = [bench for bench in self._benches if bench.unfinished]
        for bench in busy:
            for task, outcome in bench.finished(seconds / len(busy)):
                self._desk.answered(task, outcome)
