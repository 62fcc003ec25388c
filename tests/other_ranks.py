"""The processes that share a model with another, as a test finds them."""

from __future__ import annotations

from pathlib import Path

RANK = b"batchpipe.engine.ranks.rank"


def ranks_of(process: int) -> list[int]:
    """The other ranks that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        if RANK in line and parent == process:
            found.append(int(folder.name))
    return found


def is_there(process: int) -> bool:
    """True while it runs; one that has ended and nobody asked for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
