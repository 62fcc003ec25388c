"""A workflow without its runtime: one operator after the other, each over all its rows.

    python jobs/bench/operator_at_a_time.py batchpipe --folder CASE --out out.parquet
    python jobs/bench/operator_at_a_time.py commands ...   a `batchpipe run` for each operator
    python jobs/bench/operator_at_a_time.py padded ...     batches of `model.generate`
    python jobs/bench/operator_at_a_time.py single ...     one row after the other, prompt by prompt

``CASE`` has ``input.parquet`` and ``flow.yaml``. Texts, queries and requests are those of
`batchpipe.workflow`; so are the threads for them, and an operator's equal queries and requests are
made once. All models are loaded once and stay. The last line on stdout is a JSON object.
"""

from __future__ import annotations

import json
import time
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
from answerers import ANSWERERS, Answerer

from batchpipe.planner.query.graph import INPUT, Operator
from batchpipe.workflow.authoring.yaml_file import read_flow
from batchpipe.workflow.kinds.inline_steps import value_of
from batchpipe.workflow.kinds.tool_steps import Querying, Requesting, ToolStep
from batchpipe.workflow.kinds.tools import HOST_CALLS, SQL_THREADS
from batchpipe.workflow.lowering.lower import Lowered, lowered
from batchpipe.workflow.lowering.readings import Reading, readings_of, text_keys
from batchpipe.workflow.operators.calls import ThreadedCalls
from batchpipe.workflow.operators.database import Database
from batchpipe.workflow.operators.http import Client, Endpoint
from batchpipe.workflow.operators.rows import elements
from batchpipe.workflow.operators.sql import Query
from batchpipe.workflow.outcome import Outcome
from batchpipe.workflow.steps import Explode, Flow, Http, Llm, Reduce, Sql

Readings = Mapping[str, Reading]


@dataclass(eq=False)
class Member:
    """A row of a level, which sees those above it."""

    scope: ChainMap[str, Any]
    above: Member | None = None
    least_gap: float = field(default=float("inf"))  # of its answers' choices; see `Said`


class Interpreter:
    """A workflow's operators in their order; rows that fail end the run."""

    def __init__(self, checked: Lowered, answerers: Mapping[str, Answerer]) -> None:
        self._flow, self._graph, self._names = checked.flow, checked.graph, checked.names
        self._output, self._answerers = checked.output, answerers
        self._closing = ExitStack()
        self._tools = {
            step.name: self._tool(step)
            for step in checked.flow.steps
            if isinstance(step, (Sql, Http))
        }
        self.tool_calls = 0

    def run(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the results show of each row, and the least gap of its choices."""
        tables = {INPUT: [Member(ChainMap(dict(row))) for row in rows]}
        for operator in self._graph.operators:
            self._ask(operator, tables)
        return [self._shown(row) for row in tables[INPUT]]

    def close(self) -> None:
        """No connection is open any more."""
        self._closing.close()

    def _ask(self, operator: Operator, tables: dict[str, list[Member]]) -> None:
        name, rows = operator.name, tables[operator.level]
        step = self._flow.by_name[name]
        readings = readings_of(step, self._names)
        match step:
            case Llm():
                self._answer(step, readings, rows)
            case Sql() | Http():
                self._call(name, rows)
            case Explode():
                tables[name] = [
                    Member(row.scope.new_child({name: element}), row)
                    for row in rows
                    for element in elements(value_of(readings["explode"], row.scope))
                ]
            case Reduce():
                self._reduce(step, readings, rows, tables[step.of])
            case _:
                raise click.ClickException(f"step {name} is of a kind that no workload has")

    def _answer(self, step: Llm, readings: Readings, rows: Sequence[Member]) -> None:
        texts = [readings[key] for key in text_keys(step)]
        prompts = ["".join(value_of(text, row.scope) for text in texts) for row in rows]
        answers = self._answerers[step.model].answered(prompts, step.sampling["max_tokens"])
        for row, said in zip(rows, answers, strict=True):
            row.scope[step.name] = {"output": said.text}
            top = row
            while top is not None:
                top.least_gap = min(top.least_gap, said.least_gap)
                top = top.above  # type: ignore[assignment]

    def _call(self, name: str, rows: Sequence[Member]) -> None:
        tool, limit = self._tools[name]
        asked = [tool.call(row.scope) for row in rows]
        distinct = {call.digest: call.make for call in asked}
        self.tool_calls += len(distinct)
        found = _made(distinct, limit)
        for row, call in zip(rows, asked, strict=True):
            outcome = found[call.digest]
            if outcome.error is not None:
                raise click.ClickException(f"step {name}: {outcome.error}")
            row.scope[name] = dict(outcome.values)

    def _reduce(
        self, step: Reduce, readings: Readings, rows: Sequence[Member], of: Sequence[Member]
    ) -> None:
        items: dict[int, list[dict[str, Any]]] = {id(row): [] for row in rows}
        for member in of:
            item = {n: value_of(readings[f"items.{n}"], member.scope) for n in step.fields}
            items[id(member.above)].append(item)
        for row in rows:
            row.scope[step.name] = {"items": items[id(row)]}

    def _tool(self, step: Sql | Http) -> tuple[ToolStep, int]:
        readings = readings_of(step, self._names)
        if isinstance(step, Sql):
            url = self._flow.databases[step.database]
            database = Database(step.database, url, threads=SQL_THREADS)
            self._closing.callback(database.close)
            return Querying(step, readings, Query(step, database)), SQL_THREADS
        client = Client(connections=HOST_CALLS)
        self._closing.callback(client.close)
        return Requesting(step, readings, Endpoint(step, client)), HOST_CALLS

    def _shown(self, row: Member) -> dict[str, Any]:
        shown = {}
        for label, column in self._output.items():
            step, _, name = column.partition(".")
            shown[label] = row.scope[step][name]
        return {**shown, "least_gap": row.least_gap}


def _made(calls: Mapping[bytes, Callable[[], Outcome] | None], limit: int) -> dict[bytes, Outcome]:
    """The outcome of every call, so many at a time."""
    waiting, found = list(calls.items()), dict[bytes, Outcome]()
    with ThreadedCalls[bytes](limit) as threads:
        while len(found) < len(calls):
            while waiting and threads.room:
                digest, make = waiting.pop()
                assert make is not None, "it is a call of its own"
                threads.submit(digest, make)
            found |= threads.finished(None)
    return found


def _loaded(way: str, flow: Flow, dtype: str) -> dict[str, Answerer]:
    return {name: ANSWERERS[way](choice.model, dtype) for name, choice in flow.models.items()}


def _all_rows(way: str, interpreter: Interpreter, rows: Sequence[Any]) -> Iterable[dict[str, Any]]:
    if way != "single":
        return interpreter.run(rows)
    return [interpreter.run([row])[0] for row in rows]


@click.command()
@click.argument("way", type=click.Choice(sorted(ANSWERERS)))
@click.option("--folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--rows", type=click.IntRange(min=1), help="Of the table, the first.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32")
def main(way: str, folder: Path, out: Path, rows: int | None, dtype: str) -> None:
    """Answer the workflow of FOLDER, operator by operator."""
    began = time.perf_counter()
    flow = read_flow(folder / "flow.yaml")
    answerers = _loaded(way, flow, dtype)
    loaded = time.perf_counter()
    table = pq.read_table(folder / "input.parquet").slice(0, rows).to_pylist()
    interpreter = Interpreter(lowered(flow, list(table[0])), answerers)
    results = _all_rows(way, interpreter, table)
    interpreter.close()
    pq.write_table(pa.Table.from_pylist(list(results)), out)
    figures = {
        "rows": len(table),
        "tool_calls": interpreter.tool_calls,
        "load_seconds": loaded - began,
        "run_seconds": time.perf_counter() - loaded,
    }
    for each in answerers.values():
        for name, count in each.counts.items():
            figures[name] = figures.get(name, 0) + count
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
