"""How far each step of a workflow is: a bar for each on a terminal, else whole lines."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from tqdm import tqdm

from batchpipe.running.progress import LINE_SECONDS, REDRAW_SECONDS


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far one step is."""

    rows: int  # that have its values, or why there are none
    calls: int
    failed: int


@dataclass(frozen=True, slots=True)
class WorkflowProgress:
    """How far a workflow's run is."""

    finished: int  # rows of the input with all their results
    total: int  # rows of the input
    steps: Mapping[str, StepProgress]
    failed: int = 0  # results that are errors
    models: tuple[str, ...] = ()  # that are in memory


class WorkflowWatcher(Protocol):
    """Is told after each turn how far the run is."""

    def show(self, progress: WorkflowProgress) -> None:
        """What raises here stops the run."""

    def close(self) -> None:
        """Nothing more comes; the run may have ended before its end."""


class UnwatchedSteps:
    """Tells nobody."""

    def show(self, progress: WorkflowProgress) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class ToldSteps:
    """Calls a function whenever a step has another row."""

    def __init__(self, function: Callable[[WorkflowProgress], object]) -> None:
        self._function = function
        self._told: WorkflowProgress | None = None

    def show(self, progress: WorkflowProgress) -> None:
        """The function knows of every row that a step has."""
        if progress != self._told:
            self._told = progress
            self._function(progress)

    def close(self) -> None:
        """Nothing."""


class StepBars:
    """A bar a step, of the rows that it has had; the first is that of the input's rows."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._at = time.monotonic()
        self._bars: dict[str, tqdm[NoReturn]] = {}
        self._last: WorkflowProgress | None = None

    def show(self, progress: WorkflowProgress) -> None:
        """The bars move; where it is no terminal, a line is written now and then."""
        every = REDRAW_SECONDS if self._terminal else LINE_SECONDS
        is_done = progress.finished == progress.total and progress != self._last
        if time.monotonic() - self._at < every and not is_done:
            return
        self._at, self._last = time.monotonic(), progress
        if self._terminal:
            self._draw(progress)
        else:
            steps = ", ".join(f"{name} {step.rows}" for name, step in progress.steps.items())
            line = f"{progress.finished}/{progress.total} rows, {steps}"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """The bars stay as they are."""
        for bar in self._bars.values():
            bar.close()

    def _draw(self, progress: WorkflowProgress) -> None:
        if not self._bars:
            width = max(map(len, (*progress.steps, "rows")))
            for place, name in enumerate(("rows", *progress.steps)):
                self._bars[name] = _bar(name.ljust(width), place, progress.total)
        self._move("rows", progress.finished, progress.failed)
        for name, step in progress.steps.items():
            self._move(name, step.rows, step.failed)

    def _move(self, name: str, rows: int, failed: int) -> None:
        bar = self._bars[name]
        if bar.total is not None and rows > bar.total:
            bar.total = None  # an explode has made more rows than the input has
        bar.n = rows
        bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
        bar.refresh()


def _bar(name: str, place: int, total: int) -> tqdm[NoReturn]:
    size = shutil.get_terminal_size()
    return tqdm(
        desc=name, total=total, position=place, unit="row", file=sys.stderr, ncols=size.columns
    )
