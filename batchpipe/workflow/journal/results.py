"""OUT of a workflow: the input's columns, what the results show, and how each row ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchpipe.planner.query.graph import INPUT
from batchpipe.rows.batch import Record, Rows
from batchpipe.rows.infer import column_types, typed_column
from batchpipe.rows.json_text import to_json
from batchpipe.rows.line_results import input_cells
from batchpipe.rows.memory import MemoryRows
from batchpipe.rows.output_file import writing
from batchpipe.rows.output_path import output_format
from batchpipe.rows.parquet_results import write_parquet
from batchpipe.rows.results import kept_names
from batchpipe.rows.source import Source
from batchpipe.workflow.journal.journal import StepJournal
from batchpipe.workflow.journal.records import Record as JournalRecord
from batchpipe.workflow.journal.records import records_of

OWN = {"status": pa.string(), "error": pa.string()}


@dataclass(slots=True)
class Told:
    """How many rows OUT has, and how many of them are errors."""

    rows: int = 0
    failed: int = 0


class Results:
    """The rows of the results, read from the journal as often as they are needed.

    Args:
        source: the input
        journal: in which every row is finished
        table: of whose rows the results are, with all below them
        rows: of that table
        labels: what the results show
    """

    def __init__(
        self, source: Source, journal: StepJournal, table: str, rows: int, labels: Sequence[str]
    ) -> None:
        self.names = tuple(labels)
        self._source, self._journal, self._table, self._count = source, journal, table, rows

    def batches(self) -> Iterator[Rows]:
        """What the rows show, without the input's columns."""
        for _, rows, _ in self.told():
            yield rows

    def told(self) -> Iterator[tuple[Rows, Rows, list[str | None]]]:
        """The input's cells, what is shown and the errors of some rows after the other."""
        if self._table == INPUT:
            yield from self._beside_inputs()
            return
        for found in self._journal.results(self._table, self._count):
            shown = [each for record in records_of(found) for each in record.values()["rows"]]
            yield (Rows((), records=[{} for _ in shown]), *self._shown(shown))

    def _beside_inputs(self) -> Iterator[tuple[Rows, Rows, list[str | None]]]:
        coming = self._finished()
        for rows in self._source.plain.batches():
            places: list[int] = []
            shown: list[dict[str, Any]] = []
            for place in range(len(rows)):
                record = next(coming)
                assert record.ordinal == rows.first + place, f"row {record.ordinal} in its place"
                some = record.values()["rows"]
                places += [place] * len(some)
                shown += some
            yield (_taken(rows, places), *self._shown(shown))

    def _finished(self) -> Iterator[JournalRecord]:
        for found in self._journal.results(self._table, self._count):
            yield from records_of(found)

    def _shown(self, shown: list[dict[str, Any]]) -> tuple[Rows, list[str | None]]:
        records: list[Record] = [each["values"] for each in shown]
        return Rows(self.names, records=records), [each["error"] for each in shown]


def write_results(results: Results, source: Source, out: str, *, has_inputs: bool) -> Told:
    """OUT holds the results' rows in their order, whole or not at all.

    A column whose values have one type has it in Parquet; one of several kinds is JSON text there.
    """
    told = Told()
    inputs = source.plain if has_inputs else MemoryRows("the groups", ())
    kept = kept_names(inputs.names, [*results.names, *OWN])
    with writing(out) as stream:
        if output_format(out) == "parquet":
            types = column_types(results)
            added = pa.schema(
                [(n, pa.large_string() if k is None else k) for n, k in types.items()]
                + list(OWN.items())
            )
            write_parquet(stream, inputs, _typed(results, types, added, told), kept, added)
        else:
            for line in _lines(results, kept, told):
                stream.write(to_json(line).encode() + b"\n")
    return told


def _typed(
    results: Results, types: dict[str, pa.DataType | None], added: pa.Schema, told: Told
) -> Iterator[tuple[Rows, pa.Table]]:
    for inputs, shown, errors in results.told():
        _count(errors, told)
        arrays = [typed_column(shown.values(name), kind) for name, kind in types.items()]
        own = [pa.array(_statuses(errors), pa.string()), pa.array(errors, pa.string())]
        yield inputs, pa.Table.from_arrays([*arrays, *own], schema=added)


def _lines(results: Results, kept: dict[str, str], told: Told) -> Iterator[dict[str, Any]]:
    for inputs, shown, errors in results.told():
        _count(errors, told)
        cells = zip(input_cells(inputs), shown.records, errors, strict=True)
        for row, record, error in cells:
            line: dict[str, Any] = {kept[name]: value for name, value in row.items()}
            line |= {name: (record or {}).get(name) for name in results.names}
            yield line | {"status": _status(error), "error": error}


def _count(errors: list[str | None], told: Told) -> None:
    told.rows += len(errors)
    told.failed += sum(error is not None for error in errors)


def _statuses(errors: list[str | None]) -> list[str]:
    return [_status(error) for error in errors]


def _status(error: str | None) -> str:
    return "success" if error is None else "error"


def _taken(rows: Rows, places: list[int]) -> Rows:
    """These rows, one more than once where it gave several."""
    if rows.table is not None:
        return Rows(rows.names, table=rows.table.take(places))
    return Rows(rows.names, records=[rows.records[place] for place in places])
