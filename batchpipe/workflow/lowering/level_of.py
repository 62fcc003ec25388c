"""Which rows a step is asked for: those of the deepest level of the columns that it reads."""

from __future__ import annotations

from collections.abc import Iterable

from batchpipe.planner.query.graph import INPUT, Operator
from batchpipe.workflow.authoring.names import Fault


class LevelTree:
    """The levels of the operators so far, and the level of each column."""

    def __init__(self, inputs: Iterable[str]) -> None:
        self._level_of = dict.fromkeys(inputs, INPUT)
        self._above: dict[str, str | None] = {INPUT: None}

    def __contains__(self, level: str) -> bool:
        return level in self._above

    def add(self, operator: Operator) -> None:
        """The operator's columns have the level that it gives, which it may have made."""
        if operator.makes is not None:
            is_below = operator.shape == "explode"
            self._above[operator.makes] = operator.level if is_below else None
        self._level_of |= dict.fromkeys(operator.columns, operator.gives)

    def above(self, level: str) -> str | None:
        """The level of the rows that this level's rows are parts of."""
        return self._above[level]

    def path(self, level: str) -> tuple[str, ...]:
        """The level and all above it."""
        above = self._above[level]
        return (level,) if above is None else (level, *self.path(above))

    def deepest(self, columns: Iterable[str]) -> str:
        """The level whose rows see all of these columns; the input's where there are none.

        Raises:
            Fault: no level's rows do
        """
        deepest, because = INPUT, ""
        for column in columns:
            level = self._level_of[column]
            if not because or deepest in self.path(level):
                deepest, because = level, column
            elif level not in self.path(deepest):
                raise Fault(
                    f"{because} is one of each {_row_of(deepest)} and {column} of each "
                    f"{_row_of(level)}, and no row has both; reduce one of them first"
                )
        return deepest


def _row_of(level: str) -> str:
    return "row of the input" if level == INPUT else f"row of {level}"
