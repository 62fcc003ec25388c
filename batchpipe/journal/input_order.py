"""Results in the order of the input, in bounded memory, whatever order they were computed in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa

MOST_BYTES = 256 << 20
SLICE_ROWS = 10_000
MOST_RANGES = 128  # each is an open file


def in_input_order(
    parts: Iterable[pa.Table], rows: int, *, most_bytes: int = MOST_BYTES
) -> Iterator[pa.Table]:
    """All rows of the parts, by ``ordinal``: each of 0 to ``rows`` once, as is asserted."""
    told = 0
    for table in by_ordinal(parts, rows, most_bytes=most_bytes):
        end = told + table.num_rows
        found = table["ordinal"].to_numpy()
        wrong = np.flatnonzero(found != np.arange(told, end))
        assert not len(wrong), _missing_or_doubled(int(found[wrong[0]]), told + int(wrong[0]))
        yield table
        told = end
    assert told == rows, f"{told} results for {rows} rows"


def _missing_or_doubled(found: int, expected: int) -> str:
    """What is wrong where one row stands in another's place."""
    return f"row {found} has two results" if found < expected else f"row {expected} has no result"


def by_ordinal(
    parts: Iterable[pa.Table], rows: int, *, most_bytes: int = MOST_BYTES
) -> Iterator[pa.Table]:
    """All rows of the parts, by ``ordinal``, of which any may be there more than once or never.

    What is more than ``most_bytes`` is first distributed to ranges of ordinals, each a temporary
    file; then one range after the other is sorted in memory. Equal ordinals keep their order.
    """
    return _in_order(parts, 0, rows, most_bytes)


def _in_order(
    parts: Iterable[pa.Table], start: int, end: int, most_bytes: int
) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    held_bytes = held_rows = 0
    left = iter(parts)
    for part in left:
        held.append(part)
        held_bytes += part.nbytes
        held_rows += part.num_rows
        if held_bytes > most_bytes and end - start > 1:
            expected_bytes = held_bytes / max(1, held_rows) * (end - start)
            ranges = min(MOST_RANGES, end - start, 2 + int(2 * expected_bytes / most_bytes))
            bounds = np.linspace(start, end, ranges + 1).astype(np.int64)
            yield from _by_range(_each(held, left), bounds, most_bytes)
            return
    yield from _sorted(held)


def _each(held: list[pa.Table], left: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables held, each forgotten as it is given, then those left."""
    held.reverse()
    return chain((held.pop() for _ in range(len(held))), left)


def _by_range(
    parts: Iterator[pa.Table], bounds: np.ndarray[tuple[int], np.dtype[np.int64]], most_bytes: int
) -> Iterator[pa.Table]:
    with tempfile.TemporaryDirectory(prefix="batchpipe-") as folder:
        paths = [os.path.join(folder, str(number)) for number in range(len(bounds) - 1)]
        schema = _distribute(parts, bounds, paths)
        for path, start, end in zip(paths, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            yield from _in_order(_read(path, schema), start, end, most_bytes)
            if os.path.exists(path):
                os.unlink(path)


def _distribute(
    parts: Iterator[pa.Table],
    bounds: np.ndarray[tuple[int], np.dtype[np.int64]],
    paths: list[str],
) -> pa.Schema:
    """Each range's file has its rows, in any order; a range without rows has no file."""
    writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
    schema = None
    try:
        for part in parts:
            schema = part.schema
            ordered = part.sort_by("ordinal")
            places = np.searchsorted(ordered["ordinal"].to_numpy(), bounds)
            assert places[0] == 0, f"row below {bounds[0]}"
            assert places[-1] == len(part), f"row beyond {bounds[-1]}"
            for number in np.flatnonzero(np.diff(places)).tolist():
                if number not in writers:
                    writers[number] = pa.ipc.new_stream(paths[number], schema)
                first, last = int(places[number]), int(places[number + 1])
                writers[number].write_table(ordered.slice(first, last - first))
    finally:
        for writer in writers.values():
            writer.close()
    return schema


def _read(path: str, schema: pa.Schema) -> Iterator[pa.Table]:
    if not os.path.exists(path):
        return
    with pa.OSFile(path) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch], schema)


def _sorted(held: list[pa.Table]) -> Iterator[pa.Table]:
    if not held:
        return
    table = pa.concat_tables(held).combine_chunks()
    held.clear()
    ordinals = table["ordinal"].to_numpy()
    order = np.argsort(ordinals, kind="stable")
    for first in range(0, len(order), SLICE_ROWS):
        yield table.take(order[first : first + SLICE_ROWS])
