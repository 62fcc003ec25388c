"""Memory of a GPU that torch keeps to itself."""

from __future__ import annotations

import sys


def return_device_memory() -> None:
    """What torch keeps of a GPU for later goes back: others ask how much is free."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
