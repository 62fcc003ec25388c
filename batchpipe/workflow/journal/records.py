"""What the journal of a workflow holds: what a step made of a row, and rows that are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchpipe.journal.manifest import Part, digest_of
from batchpipe.journal.part_file import packed_table

FINAL = -1  # the stage of an outcome; from 0 on, what a model of several said on the way there

SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("ordinal", pa.int64()),
        ("step", pa.string()),
        ("below", pa.list_(pa.int32())),
        ("stage", pa.int8()),
        ("content", pa.large_string()),
        ("error", pa.string()),
        ("digest", pa.binary()),
        ("failed", pa.int32()),
        ("dropped", pa.int32()),
        ("seconds", pa.float64()),
        ("prompt_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Record:
    """An outcome; without a step, all that the results need of a row of a table."""

    table: str  # level whose rows have none above
    ordinal: int  # of the row there
    step: str | None = None
    below: tuple[int, ...] = ()  # of the row's key, what stands behind the ordinal
    stage: int = FINAL
    content: str | None = None  # JSON
    error: str | None = None
    digest: bytes | None = None  # of what was asked, where equal questions have equal answers
    failed: int = 0  # of the results in it
    dropped: int = 0  # rows that filters dropped, without those below them
    seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def values(self) -> Any:
        """The content, read."""
        return None if self.content is None else json.loads(self.content)

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory as columns."""
        return 100 + len(self.content or "") + len(self.error or "")


def table_of(records: Sequence[Record]) -> pa.Table:
    """The records as columns, in their order."""
    arrays = []
    for field in SCHEMA:
        values = list(map(attrgetter(field.name), records))
        try:
            arrays.append(pa.array(values, field.type))
        except UnicodeEncodeError:  # half a surrogate pair has no place in a file
            texts = [None if v is None else v.encode("utf-8", "backslashreplace") for v in values]
            arrays.append(pa.array(texts, pa.binary()).cast(field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def records_of(table: pa.Table) -> Iterator[Record]:
    """The rows of the columns, one by one."""
    columns = [table.column(name).to_pylist() for name in SCHEMA.names]
    for values in zip(*columns, strict=True):
        given = dict(zip(SCHEMA.names, values, strict=True))
        yield Record(**{**given, "below": tuple(given["below"])})


def packed_part(table: pa.Table, number: int, level: int) -> tuple[Part, bytes]:
    """The part with this number, and its file's content; its rows are those that are finished."""
    content = packed_table(table)
    finished = table.filter(pc.is_null(table["step"]))
    part = Part(
        name=Part.name_of(number),
        rows=finished.num_rows,
        failed=pc.sum(finished["failed"]).as_py() or 0,
        several=False,
        digest=digest_of(content),
        size_bytes=len(content),
        memory_bytes=table.nbytes,
        level=level,
    )
    return part, content
