"""How far a run is: a bar on a terminal, whole lines elsewhere, always on stderr."""

from __future__ import annotations

import shutil
import sys
import time

from tqdm import tqdm

LINE_SECONDS = 5.0
REDRAW_SECONDS = 0.5  # also while no row ends: tokens go on


class Progress:
    """Rows done, tokens a second, reused share and time left."""

    def __init__(self, rows: int, done: int = 0) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = self._line_at = time.monotonic()
        size = shutil.get_terminal_size()  # 80 x 24 where a terminal says it has none
        self._bar = tqdm(
            total=rows,
            initial=done,
            unit="row",
            file=sys.stderr,
            disable=not self._terminal,
            ncols=size.columns,
            nrows=size.lines,
        )
        self._rows, self._first, self._done = rows, done, done

    def update(self, done: int, tokens: int, reused_share: float) -> None:
        """So many rows are done, and so many tokens, prompts as if computed, are through."""
        seconds = max(1e-6, time.monotonic() - self._started)
        rate = f"{tokens / seconds:,.0f} tok/s, {reused_share:.0%} reused"
        if self._terminal:
            moves = self._bar.update(done - self._done)
            waited = time.monotonic() - self._line_at >= REDRAW_SECONDS
            self._bar.set_postfix_str(rate, refresh=bool(moves) or waited)
            self._line_at = time.monotonic() if moves or waited else self._line_at
        elif time.monotonic() - self._line_at >= LINE_SECONDS or done == self._rows:
            self._line_at = time.monotonic()
            left = (self._rows - done) * seconds / max(1, done - self._first)
            print(
                f"{done}/{self._rows} rows, {rate}, {tqdm.format_interval(left)} left",
                file=sys.stderr,
                flush=True,
            )
        self._done = done

    def close(self) -> None:
        """The bar stays as it is."""
        self._bar.close()
