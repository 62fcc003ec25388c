"""How far a run is: told to whoever watches, as a bar or lines on stderr or by a function."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from tqdm import tqdm

LINE_SECONDS = 5.0
REDRAW_SECONDS = 0.5  # also while no row ends: tokens go on


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    >>> from batchpipe import Progress
    >>> Progress(done=30, total=50, done_before=10, seconds=2.0).seconds_left
    2.0
    """

    done: int  # rows with a result, also an error
    total: int  # rows
    done_before: int = 0  # of them, by earlier sessions of the same run
    prompt_tokens: int = 0  # of the rows that this session answered, each as if alone
    computed_prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0  # since the engine began

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompts and answers that are through in a second."""
        return (self.prompt_tokens + self.completion_tokens) / max(1e-6, self.seconds)

    @property
    def reused_share(self) -> float:
        """The share of prompt tokens that another row's keys and values served."""
        return max(0.0, 1 - self.computed_prompt_tokens / max(1, self.prompt_tokens))

    @property
    def seconds_left(self) -> float:
        """At the rate of this session."""
        return (self.total - self.done) * self.seconds / max(1, self.done - self.done_before)


class Watcher(Protocol):
    """Is told after each step how far the run is."""

    def show(self, progress: Progress) -> None:
        """What raises here stops the run."""

    def close(self) -> None:
        """Nothing more comes; the run may have ended before its end."""


class Unwatched:
    """Tells nobody."""

    def show(self, progress: Progress) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Told:
    """Calls a function at the start and whenever rows have ended."""

    def __init__(self, function: Callable[[Progress], object]) -> None:
        self._function = function
        self._done: int | None = None

    def show(self, progress: Progress) -> None:
        """The function knows of every row that has ended."""
        if progress.done != self._done:
            self._done = progress.done
            self._function(progress)

    def close(self) -> None:
        """Nothing."""


class ProgressBar:
    """Rows done, tokens a second, reused share and time left: a bar on a terminal, else lines."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._line_at = time.monotonic()
        self._bar: tqdm[NoReturn] | None = None
        self._drawn = 0

    def show(self, progress: Progress) -> None:
        """The bar moves; where it is no terminal, a line is written every `LINE_SECONDS`."""
        rate = f"{progress.tokens_per_second:,.0f} tok/s, {progress.reused_share:.0%} reused"
        if self._terminal:
            self._draw(progress, rate)
        elif self._waited(LINE_SECONDS) or progress.done == progress.total:
            self._line_at = time.monotonic()
            left = tqdm.format_interval(progress.seconds_left)
            print(
                f"{progress.done}/{progress.total} rows, {rate}, {left} left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """The bar stays as it is."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, progress: Progress, rate: str) -> None:
        if self._bar is None:
            self._bar = _begun(progress)
            self._drawn = progress.done
        moves = self._bar.update(progress.done - self._drawn)
        self._drawn = progress.done
        drawn = bool(moves) or self._waited(REDRAW_SECONDS)
        self._bar.set_postfix_str(rate, refresh=drawn)
        self._line_at = time.monotonic() if drawn else self._line_at

    def _waited(self, seconds: float) -> bool:
        return time.monotonic() - self._line_at >= seconds


def _begun(progress: Progress) -> tqdm[NoReturn]:
    size = shutil.get_terminal_size()  # 80 x 24 where a terminal says it has none
    return tqdm(
        total=progress.total,
        initial=progress.done,
        unit="row",
        file=sys.stderr,
        ncols=size.columns,
        nrows=size.lines,
    )
