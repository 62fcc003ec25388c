"""kill -9, at random and at every commit: the benchmark of faults, small, on the shipped model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parents[2] / "jobs" / "bench" / "faults.py"


@pytest.mark.parametrize(
    "arguments",
    [("kills", "--kills", "12", "--rows", "100"), ("moments", "--rows", "60", "--once")],
)
def test_nothing_is_lost_doubled_or_computed_again(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, FAULTS, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    names, figures = (line.split() for line in ran.stdout.splitlines()[-2:])
    counted = dict(zip(names, map(int, figures), strict=True))
    assert counted["kills"] >= 12
    assert counted["lost"] == counted["doubled"] == counted["recomputed"] == 0
