"""What a workflow means: a plain interpreter of query graphs over small rows of numbers.

Every operator's values are drawn from all that may decide them, so that a value that comes from
other arguments, another row or another operator shows. It follows what the rules found out where
that could change a result: who awaits whom, what is asked once, which names mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from batchpipe.planner.query.graph import EXPLODE, FILTER, INPUT, REDUCE, Operator, QueryGraph

Key = tuple[Any, ...]
FAILED = "failed"


def drawn(*what: Any) -> int:
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=4).digest(), "big")


@dataclass
class Interpreter:
    """The rows of every level, and what each operator made of them."""

    graph: QueryGraph
    rows: dict[str, list[Key]] = field(default_factory=dict)  # by level, in order
    cells: dict[tuple[str, Key], Any] = field(default_factory=dict)
    dropped: set[tuple[str, Key]] = field(default_factory=set)
    asked: int = 0  # calls of costly operators
    _memory: dict[Any, Any] = field(default_factory=dict)

    def run(self, table: list[dict[str, int]]) -> list[tuple[Any, ...]]:
        """A tuple of the shown columns for each row of the results."""
        self.rows[INPUT] = [(at,) for at in range(len(table))]
        for at, row in enumerate(table):
            self.cells |= {(name, (at,)): value for name, value in row.items()}
        done: set[str] = set()
        for operator in self.graph.operators:
            assert {each.name for each in self.graph.sources(operator)} <= done
            {REDUCE: self._reduce}.get(operator.shape, self._each)(operator)
            done.add(operator.name)
        level = self.graph.result_level
        return [
            tuple(self._cell(column, level, key) for column in self.graph.outputs)
            for key in self._living(level)
        ]

    def _living(self, level: str) -> list[Key]:
        return [key for key in self.rows[level] if not self._is_dropped(level, key)]

    def _is_dropped(self, level: str, key: Key) -> bool:
        path = self.graph.path(level)
        return any((above, key[: len(key) - up]) in self.dropped for up, above in enumerate(path))

    def _cell(self, column: str, level: str, key: Key) -> Any:
        """The column's value for this row, which may be that of a row above."""
        maker = self.graph.maker(column)
        gives = INPUT if maker is None else maker.gives
        up = self.graph.path(level).index(gives)
        return self.cells[self.graph.column(column), key[: len(key) - up]]

    def _each(self, operator: Operator) -> None:
        if operator.makes is not None:
            self.rows[operator.makes] = []
        for key in self._living(operator.level):
            values = [self._cell(column, operator.level, key) for column in operator.reads]
            self._settle(operator, key, self._answer(operator, key, values))

    def _answer(self, operator: Operator, key: Key, values: list[Any]) -> Any:
        """A number; or `FAILED`, as whatever reads what failed does."""
        if FAILED in values:
            return FAILED
        asked = _asked(operator, values)
        if not operator.is_pure:
            asked = (*asked, operator.name, key)
        memory = (operator.name, asked)
        if operator.collapses and memory in self._memory:
            return self._memory[memory]
        self.asked += operator.is_costly
        number = drawn(asked)
        answer = FAILED if number % 11 == 0 else number
        self._memory[memory] = answer
        return answer

    def _settle(self, operator: Operator, key: Key, answer: Any) -> None:
        if operator.shape == FILTER:
            if answer != FAILED and answer % 2:
                self.dropped.add((operator.level, key))
        elif operator.shape == EXPLODE:
            assert operator.makes is not None
            if answer == FAILED:
                self.cells[operator.name, key] = FAILED
                return
            for index in range(answer % 4):
                child = (*key, index)
                self.rows[operator.makes].append(child)
                item = drawn(answer, index) % 3
                self.cells |= {(f"{operator.name}.item", child): item}
                self.cells |= {(f"{operator.name}.index", child): index}
        else:
            self._write(operator, key, answer)

    def _write(self, operator: Operator, key: Key, answer: Any) -> None:
        for name in operator.writes:
            value = FAILED if answer == FAILED else drawn(answer, name) % 5
            self.cells[f"{operator.name}.{name}", key] = value

    def _reduce(self, operator: Operator) -> None:
        of = self.graph.deepest(operator.reads)
        together: dict[Key, list[Any]] = {}
        by_value = operator.makes is not None
        if not by_value:
            together = {key: [] for key in self._living(operator.level)}
        for key in self._living(of):
            values = [self._cell(column, of, key) for column in operator.reads]
            group = (values[0],) if by_value else key[:-1]
            together.setdefault(group, []).append(values)
        if by_value:
            self.rows[operator.name] = list(together)
        maker = None if by_value else self.graph.by_name[of]
        for group, items in together.items():
            failed = FAILED in (cell for values in items for cell in values)
            failed |= maker is not None and self.cells.get((maker.name, group)) == FAILED
            answer = FAILED if failed else drawn(operator.arguments, items)
            for name in operator.writes:
                self.cells[f"{operator.name}.{name}", group] = (
                    FAILED if answer == FAILED else drawn(answer, name) % 5
                )


def _asked(operator: Operator, values: list[Any]) -> tuple[Any, ...]:
    """All that decides an answer; where blocks may stand in any order, their order is nothing."""
    blocks = list(operator.prompt)
    for at, value in enumerate(values):
        blocks = [block.replace(f"⟨{at}⟩", f"<{value}>") for block in blocks]
    if operator.order_free:
        return operator.kind, operator.arguments, operator.models, tuple(sorted(blocks))
    return operator.kind, operator.arguments, operator.models, tuple(blocks), tuple(values)
