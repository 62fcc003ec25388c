"""Runs of batchpipe in processes that can be killed at any moment, and what each of them did.

The processes are forked from one that has loaded torch already: a run begins within milliseconds,
so that a kill meets its work and not its imports. Nothing else of a run is other than a user's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import torch

# What a run imports late: loaded here, once for all.
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from batchpipe.cli import main
from batchpipe.journal import compaction, journal, moments
from batchpipe.rows.results import Result

LOOK_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Session:
    """One process of a run: how it ended and the rows that it answered."""

    code: int  # of its exit; -9 for killed
    answered: tuple[int, ...]  # ordinals, one as often as it was answered
    moments: tuple[str, ...]  # that it came past, in order
    seconds: float
    peak_anonymous_bytes: int  # memory that no file stands behind, as seen every 40 ms


def session(
    arguments: Sequence[object],
    scratch: Path,
    *,
    kill_after: float | None = None,
    kill_at: tuple[str, int] | None = None,
    flush_seconds: float = 0.1,
    merged_parts: int = compaction.MERGED_PARTS,
    before: Callable[[], None] | None = None,
) -> Session:
    """The command runs in a process of its own to its end or until it is killed.

    Args:
        scratch: an existing folder for what the process says
        kill_after: seconds
        kill_at: the name of a moment and how often it must have come
        flush_seconds: between two commits of the journal
        merged_parts: that become one
        before: called in the process before the command
    """
    for name in ("answered", "moments"):
        (scratch / name).write_bytes(b"")
    began = time.monotonic()
    child = os.fork()
    if not child:
        _be_the_run(
            [str(each) for each in arguments], scratch, kill_at, flush_seconds, merged_parts, before
        )
    status, peak_bytes = _wait(child, None if kill_after is None else began + kill_after)
    return Session(
        code=os.waitstatus_to_exitcode(status),
        answered=tuple(map(int, (scratch / "answered").read_text().split())),
        moments=tuple((scratch / "moments").read_text().split("\n")[:-1]),
        seconds=time.monotonic() - began,
        peak_anonymous_bytes=peak_bytes,
    )


def committed(run_dir: Path) -> set[int]:
    """The rows whose results the run directory holds, by its files alone."""
    if not (run_dir / "manifest.json").is_file():
        return set()
    parts = json.loads((run_dir / "manifest.json").read_text())["parts"]
    rows: set[int] = set()
    for part in parts:
        path = run_dir / "parts" / Path(part["name"]).name
        rows.update(pq.read_table(path, columns=["ordinal"], use_threads=False)[0].to_pylist())
    return rows


def _wait(child: int, until: float | None) -> tuple[int, int]:
    """The child's status once it has ended, by itself or killed, and its most anonymous memory."""
    peak_bytes = 0
    for look in count():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status, peak_bytes
        if until is not None and time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], peak_bytes
        if look % 20 == 0:
            peak_bytes = max(peak_bytes, _anonymous_bytes(child))
        time.sleep(LOOK_SECONDS)
    raise AssertionError


def _anonymous_bytes(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        name, _, amount = line.partition(":")
        if name == "RssAnon":
            return int(amount.split()[0]) * 1024
    return 0  # it has ended and is not waited for yet


def _be_the_run(
    arguments: list[str],
    scratch: Path,
    kill_at: tuple[str, int] | None,
    flush_seconds: float,
    merged_parts: int,
    before: Callable[[], None] | None,
) -> None:
    """Never returns."""
    code = 99
    try:
        said = os.open(scratch / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        torch.set_num_threads(1)
        journal.FLUSH_SECONDS = flush_seconds
        compaction.MERGED_PARTS = merged_parts
        _tell_answers(scratch / "answered")
        _tell_moments(scratch / "moments", kill_at)
        if before is not None:
            before()
        main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell_answers(path: Path) -> None:
    """Every row's number goes to the file before its result goes to the journal."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    add = journal.Journal.add

    def told(self: journal.Journal, results: Iterable[Result]) -> None:
        some = list(results)
        os.write(file, "".join(f"{result.ordinal}\n" for result in some).encode())
        add(self, some)

    journal.Journal.add = told  # type: ignore[method-assign]


def _tell_moments(path: Path, kill_at: tuple[str, int] | None) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    came: dict[str, int] = {}

    def tell(name: str) -> None:
        os.write(file, f"{name}\n".encode())
        came[name] = came.get(name, 0) + 1
        if (name, came[name]) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    moments.hook = tell
