"""Rows while they are in memory: what they see, what they wait for, and what hangs on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from batchpipe.workflow.running.levels import Key


class Row:
    """A row of a level, while it is in memory."""

    __slots__ = (
        "above",
        "below",
        "causes",
        "is_dropped",
        "key",
        "level",
        "settled",
        "tree",
        "values",
        "waits",
    )

    def __init__(self, level: str, key: Key, above: Row | None, tree: Tree) -> None:
        self.level, self.key, self.above, self.tree = level, key, above, tree
        self.values: dict[str, Any] = {}  # columns of the input; mappings of fields by step
        self.causes: dict[str, str] = {}  # step -> why it has no values here
        self.settled: set[str] = set()  # operators that have values or a cause
        self.waits: dict[str, int] = {}  # operator -> for how much it waits; gone once it does not
        self.below: dict[str, list[Row]] = {}  # level -> the rows that an explode made of this one
        self.is_dropped = False

    @property
    def scope(self) -> Mapping[str, Any]:
        """All that an expression of this row may name."""
        return self.values if self.above is None else {**self.above.scope, **self.values}

    def cause(self, names: Iterable[str]) -> str | None:
        """Why the first of these operators that failed, here or above, did."""
        return next((each for name in names if (each := self._cause(name)) is not None), None)

    def has_settled(self, name: str) -> bool:
        """True where the operator has values or a cause, here or above."""
        row: Row | None = self
        while row is not None:
            if name in row.settled:
                return True
            row = row.above
        return False

    def _cause(self, name: str) -> str | None:
        row: Row | None = self
        while row is not None:
            if name in row.causes:
                return row.causes[name]
            row = row.above
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A prompt to a model, whose answer another prompt will begin with."""

    model: str
    number: int


@dataclass(slots=True, eq=False)
class Coming:
    """A list of which not all elements have become rows."""

    row: Row  # above them
    explode: str
    level: str
    items: list[Any]
    made: int = 0


class Tree:
    """A row of a table with all rows below it: what is admitted and leaves memory together."""

    __slots__ = ("asked", "busy", "coming", "gathered", "known", "open", "row", "tickets")

    def __init__(self, table: str, ordinal: int) -> None:
        self.row = Row(table, (ordinal,), None, self)
        self.open = 0  # nodes that are not settled
        self.busy = 0  # of these, asked and not answered
        self.coming: list[Coming] = []  # rows that are still to be made, those of the last first
        self.gathered: dict[str, list[Any]] = {}  # by group-by, what its rows bring to groups
        # What the runtime knows of it.
        self.known: dict[tuple[str, Key, int], Any] = {}  # outcomes of before, see `admission`
        self.asked: set[str] = set()  # steps whose prompts for the row itself were asked
        self.tickets: dict[tuple[str, Key], Ticket] = {}  # of answers that prompts will follow

    @property
    def ordinal(self) -> int:
        """The row's number in its table."""
        return self.row.key[0]
