"""Who writes a run, as the lock says it, and what is raised where that is somebody else."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from batchpipe.errors import BatchpipeError, StoppedEarly

LOCK = "lock"  # the lock's file


class Busy(StoppedEarly):
    """Another process writes the run; the message says which one and since when."""


class LostLock(BatchpipeError):
    """Another process has taken the run over, and this one has stopped without writing."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds, or held, a run's lock."""

    host: str
    pid: int
    process_start: str  # by which a pid that was given away again is told from its first owner
    place: str  # where its pid means something: one boot and one pid namespace
    since: str  # by its wall clock, for people only

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return cls(socket.gethostname(), os.getpid(), _process_start(os.getpid()), _place(), now)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Holder | None:
        """The holder in a lock's record; None where it is damaged."""
        names = cls.__dataclass_fields__
        with suppress(KeyError):
            holder = cls(**{name: record[name] for name in names})
            return holder if isinstance(holder.pid, int) and holder.pid > 0 else None
        return None

    def as_record(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def is_here(self) -> bool:
        """True where its pid means the same process to us."""
        return bool(self.place) and self.place == _place()

    def is_dead(self) -> bool:
        """True where that is certain: the process was one of this very boot and is gone."""
        if not self.is_here():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        start = _process_start(self.pid)
        return bool(start) and start != self.process_start

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host}"


def parsed(content: bytes) -> dict[str, Any]:
    """The lock's record; empty where it is damaged or just being written."""
    with suppress(ValueError):
        record = json.loads(content)
        if isinstance(record, dict):
            return record
    return {}


def busy(name: str, holder: Holder | None) -> Busy:
    """The sentence for the process that came second."""
    who, since = "another process", ""
    if holder is not None:
        who, since = str(holder), f" since {holder.since}"
    return Busy(
        f"{who} has been writing {name}{since}; wait for it or stop it: the same command goes on "
        f"from there"
    )


def lost(name: str, holder: Holder | None) -> LostLock:
    """The sentence for the process that was taken for dead."""
    return LostLock(
        f"{holder or 'another process'} has taken over the lock of {name}: this process stops "
        f"without writing; what it had committed stays"
    )


@cache
def _place() -> str:
    """Empty where the system does not tell."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _process_start(pid: int) -> str:
    """Clock ticks from boot to the start of the process; empty where the system does not tell."""
    with suppress(OSError, IndexError):
        # The name, in parentheses, may have any character in it: field 22 is the 20th behind it.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if state in "ZX" else fields[18]
    return ""
