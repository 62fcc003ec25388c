"""What the input has in the few rows that a report shows, where it is still what the run read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchpipe.errors import BatchpipeError
from batchpipe.journal.manifest import Manifest
from batchpipe.rows.batch_files.openai_job import LINE_FIELDS
from batchpipe.rows.location import find_files
from batchpipe.rows.request_ids import CUSTOM_ID, DEFAULT_COLUMN
from batchpipe.rows.source import Rows, open_source
from batchpipe.rows.words import one_line
from batchpipe.running.begin import input_states

MOST_BYTES = 256 << 20  # a larger input is not read again for a few rows
MOST_CHARACTERS = 400  # of a cell
MOST_CELLS = 12  # of a row


@dataclass(frozen=True, slots=True)
class InputRow:
    """A row of the input."""

    request_id: str
    cells: Mapping[str, str]  # column -> how its value reads


@dataclass(frozen=True, slots=True)
class InputRows:
    """Some rows of the input, or why they are not known."""

    rows: Mapping[int, InputRow] = field(default_factory=dict)
    unknown_because: str | None = None


def input_rows(manifest: Manifest, wanted: set[int]) -> InputRows:
    """The wanted rows, as far as the input can be read and has not changed since the run."""
    job = manifest.command.get("job", {})
    spec = job.get("input")
    if not spec or not wanted:
        return InputRows()
    try:
        locations = find_files(spec)
        if input_states(spec) != manifest.facts.get("input_states"):
            return InputRows(unknown_because="it has changed since the run read it")
        size_bytes = sum(each.filesystem.size(each.address) or 0 for each in locations)
        if size_bytes > MOST_BYTES:
            return InputRows(unknown_because=f"it has {size_bytes / 1e6:,.0f} MB")
        return InputRows(_read(spec, job, wanted))
    except (BatchpipeError, OSError) as error:
        return InputRows(unknown_because=one_line(str(error)))


def _read(spec: str, job: Mapping[str, Any], wanted: set[int]) -> dict[int, InputRow]:
    found: dict[int, InputRow] = {}
    last = max(wanted)
    source = open_source(spec, limit=job.get("limit"))
    of_requests = set(source.names) >= LINE_FIELDS
    id_column = job.get("id_column") or (CUSTOM_ID if of_requests else DEFAULT_COLUMN)
    for rows in source.batches():
        for row in sorted(wanted & set(range(rows.first, rows.first + len(rows)))):
            found[row] = _row(rows, row - rows.first, id_column)
        if rows.first + len(rows) > last:
            break
    return found


def _row(rows: Rows, place: int, id_column: str) -> InputRow:
    record = rows.record(place)
    named = record.get(id_column)
    name = f"row-{rows.first + place}" if named is None else str(named)
    cells = {column: _text(value) for column, value in record.items() if column != id_column}
    return InputRow(one_line(name), dict([*cells.items()][:MOST_CELLS]))


def _text(value: object) -> str:
    """A cell as a person reads it; of a conversation, its last message."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content", value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
