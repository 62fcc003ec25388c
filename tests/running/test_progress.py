"""The bar is there on any terminal, also on one that does not know its size."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

DRAW = """
from batchpipe.running.progress import Progress, ProgressBar
bar = ProgressBar()
bar.show(Progress(done=2, total=10))
bar.show(Progress(done=10, total=10, prompt_tokens=1000, computed_prompt_tokens=500, seconds=1))
bar.close()
"""


@pytest.mark.parametrize("size", [None, (40, 110)])
def test_a_terminal_shows_rows_rate_and_reused_share(size: tuple[int, int] | None) -> None:
    leader, follower = pty.openpty()
    if size is not None:
        termios.tcsetwinsize(follower, size)
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    subprocess.run([sys.executable, "-c", DRAW], stderr=follower, env=environment, check=True)
    os.close(follower)
    drawn = os.read(leader, 65536).decode()
    os.close(leader)
    assert "10/10" in drawn
    assert "50% reused" in drawn
    assert "tok/s" in drawn
