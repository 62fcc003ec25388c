"""What a run directory tells of its run, read a part at a time.

A run of millions of rows is read in the memory of one part: of its rows, only sums, counts and a
few rows that are shown are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.errors import StoppedEarly
from batchpipe.journal.current import current_results
from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import Manifest
from batchpipe.journal.status import LOOKS, Look, Status, look_at, status_of
from batchpipe.journal.summary_file import summary_of
from batchpipe.report.input_rows import InputRow, InputRows, input_rows
from batchpipe.report.lengths import Lengths
from batchpipe.report.shown_rows import ShownRow, ShownRows
from batchpipe.running.session.record import Session, read_sessions
from batchpipe.running.tally import Tally

COLUMNS = (
    "ordinal", "status", "finish_reason", "error", "output",
    "prompt_tokens", "cached_tokens", "completion_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """A run as its files were at one moment."""

    manifest: Manifest
    status: Status
    summary: Mapping[str, Any] | None  # of a complete run
    tally: Tally  # of the rows that are answered
    prompt_lengths: Lengths  # of rows with an answer
    answer_lengths: Lengths
    failed: tuple[ShownRow, ...]  # the first of them
    examples: tuple[ShownRow, ...]
    sessions: tuple[Session, ...]
    input_rows: InputRows

    def input_of(self, row: int) -> InputRow:
        """What the input has in this row, as far as it was read."""
        return self.input_rows.rows.get(row, InputRow(f"row-{row}", {}))


def find(folder: Folder) -> Findings:
    """What the run in this folder did so far; nothing is locked or written.

    Raises:
        ConfigError: there is no run, or its manifest is damaged
        OSError: its files cannot be read
        StoppedEarly: a part was damaged or removed again and again while it was read
    """
    for _ in range(LOOKS - 1):
        look = look_at(folder)
        try:
            return _found(folder, look)
        except StoppedEarly:  # parts were merged meanwhile
            continue
    return _found(folder, look_at(folder))


def _found(folder: Folder, look: Look) -> Findings:
    tally, shown = Tally(), ShownRows()
    prompt_lengths, answer_lengths = Lengths(), Lengths()
    for table in tally.counting(_tables(folder, look)):
        shown.see(table)
        answered = table.filter(pc.equal(table["status"], "success"))
        prompt_lengths.add(answered["prompt_tokens"].to_numpy())
        answer_lengths.add(answered["completion_tokens"].to_numpy())
    manifest, status = look.manifest, status_of(folder, look)
    sessions = read_sessions(folder, manifest)
    slow = {each.row for session in sessions for each in session.slow_rows}
    return Findings(
        manifest=manifest,
        status=status,
        summary=summary_of(folder, manifest),
        tally=tally,
        prompt_lengths=prompt_lengths,
        answer_lengths=answer_lengths,
        failed=shown.failed,
        examples=shown.examples,
        sessions=sessions,
        input_rows=input_rows(manifest, slow | shown.ordinals),
    )


def _tables(folder: Folder, look: Look) -> Iterator[pa.Table]:
    """The results that count, of all parts that are whole."""
    parts = [part for part in look.manifest.parts if part.name not in look.recovered.parts]
    return current_results(folder, parts, look.recovered.states.winner, COLUMNS)
