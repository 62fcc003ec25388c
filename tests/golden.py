"""Texts that a person has read and found right, kept as files and compared to the letter."""

from __future__ import annotations

import os
from pathlib import Path

PLANS = Path(__file__).parent / "plans"
RENEW = "BATCHPIPE_RENEW_GOLDEN"


def check_golden(name: str, text: str) -> None:
    """The text equals the golden file of this name, or becomes it where the user asks for that."""
    path = PLANS / f"{name}.txt"
    found = text + "\n"
    if os.environ.get(RENEW):
        path.write_text(found, encoding="utf-8")
    hint = f"if this change is wanted: {RENEW}=1 pytest, then read the diff of tests/plans"
    assert path.exists(), f"there is no {path}; {hint}"
    assert found == path.read_text(encoding="utf-8"), f"{path} differs; {hint}"
