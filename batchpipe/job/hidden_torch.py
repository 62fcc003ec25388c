"""What runs no model here needs no torch, and does not wait for it."""

from __future__ import annotations

import os
import sys


def hide_torch() -> None:
    """transformers, imported after this, works without torch for the rest of the process.

    It imports torch wherever that is installed, which costs seconds and hundreds of megabytes, and
    a tokenizer needs none of it. Does nothing where torch is loaded already.
    """
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that torch is missing
