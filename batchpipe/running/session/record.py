"""The file of a session: its timeline as Parquet, and what else is known as JSON in the metadata.

No result needs it. A file that is missing, damaged or of another run is one session less to tell
of, so nothing that is wrong with one is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchpipe.journal.folder import Folder
from batchpipe.journal.manifest import Manifest
from batchpipe.running.session.timeline import COLUMNS, Point

MOST_SESSIONS = 100  # of one run that are read: 200,000 points
FACTS = b"batchpipe.session"  # key of the schema's metadata whose value is a JSON object
SCHEMA = pa.schema(
    [
        pa.field(name, pa.float64() if name == "seconds" else pa.int64(), nullable=False)
        for name in COLUMNS
    ]
)


@dataclass(frozen=True, slots=True)
class Shared:
    """Prompt tokens ``start:end`` that the prompts of ranks ``first:last`` begin with alike.

    A rank is a prompt's place in the order of token ids.
    """

    above: int  # index of the one that it continues; -1: none
    start: int
    end: int
    first: int
    last: int
    text: str  # how it begins


@dataclass(frozen=True, slots=True)
class SlowRow:
    """A row that took long from its admission to its answer."""

    row: int
    request_id: str
    seconds: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Session:
    """What one process did for a run, as far as its file tells."""

    number: int  # from 1
    started: str
    is_done: bool = False  # it came to the end of its plan
    facts: Mapping[str, Any] = field(default_factory=dict)  # of its plan and its machine
    versions: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[Shared, ...] = ()  # the most of what its prompts share, parents first
    mean_tokens: tuple[int, ...] = ()  # prompt lengths over the ranks, evenly spaced
    slow_rows: tuple[SlowRow, ...] = ()  # the slowest first
    points: tuple[Point, ...] = ()


def name_of(number: int) -> str:
    """The file of the session with this number."""
    return f"sessions/{number:06d}.parquet"


def packed_session(session: Session) -> bytes:
    """The session as its file has it."""
    told = asdict(session)
    points = told.pop("points")
    text = json.dumps(told).encode()
    table = pa.Table.from_pylist(points, schema=SCHEMA.with_metadata({FACTS: text}))
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    return bytes(stream.getvalue())


def read_sessions(folder: Folder, manifest: Manifest) -> tuple[Session, ...]:
    """Those of the run's last sessions whose files tell of them."""
    found = []
    for number, known in [*enumerate(manifest.sessions, 1)][-MOST_SESSIONS:]:
        session = _read(folder, number)
        if session is not None and session.started == known.started:
            found.append(session)
    return tuple(found)


def _read(folder: Folder, number: int) -> Session | None:
    try:
        content = folder.get(name_of(number))
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        told = json.loads(table.schema.metadata[FACTS])
        told["shared"] = tuple(Shared(**each) for each in told["shared"])
        told["slow_rows"] = tuple(SlowRow(**each) for each in told["slow_rows"])
        told["mean_tokens"] = tuple(told["mean_tokens"])
        points = tuple(Point(**each) for each in table.to_pylist())
        return Session(**told, points=points)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # pyarrow's errors of damaged files are among these
