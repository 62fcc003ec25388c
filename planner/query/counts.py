"""How many rows a workflow's operators meet, and how many of them ask for something different.

Where nothing was counted an assumption stands in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from batchpipe.planner.query.graph import EXPLODE, FILTER, INPUT, REDUCE, Operator, QueryGraph
from batchpipe.planner.query.statistics import Statistics

ELEMENTS = 4.0  # rows that an explode makes of one
ROWS_OF_A_GROUP = 8.0
KEPT = 0.5  # of the rows that a filter sees


@dataclass(frozen=True)
class Counts:
    """How many rows and different values a graph's operators meet, by these statistics."""

    graph: QueryGraph
    statistics: Statistics

    def rows(self, level: str) -> float:
        """Rows of the level, before any filter."""
        known = self.statistics.rows.get(level)
        if known is not None:
            return known
        maker = next(each for each in self.graph.operators if each.makes == level)
        if maker.shape == EXPLODE:
            return self.rows(maker.level) * ELEMENTS
        return max(1.0, self.rows(maker.level) / ROWS_OF_A_GROUP)

    def share_left(self, operator: Operator) -> float:
        """The share of its level's rows that the filters which it awaits let through."""
        share = 1.0
        path = self.graph.path(operator.level)
        for name in sorted(nx.ancestors(self.graph.edges, operator.name)):
            above = self.graph.by_name[name]
            if above.shape == FILTER and above.level in path:
                share *= self.statistics.kept.get(name, KEPT)
        return share

    def asked(self, operator: Operator) -> float:
        """Rows for which it is asked."""
        return self.rows(operator.level) * self.share_left(operator)

    def asked_differently(self, operator: Operator, columns: Iterable[str]) -> float:
        """How many different values of these columns are among the rows for which it is asked."""
        different, share = self.different(columns), self.share_left(operator)
        if share == 1.0 or not different:
            return different
        # Each value is lost where all its rows are.
        copies = self.rows(operator.level) / different
        return float(different * (1 - (1 - share) ** copies))

    def different(self, columns: Iterable[str]) -> float:
        """How many different values these columns have together, in all rows that have them."""
        columns = sorted({self.graph.column(each) for each in columns})
        known = self.statistics.distinct.get(tuple(columns))
        if known is not None:
            return known
        level = self.graph.deepest(columns)
        rows = self.rows(level)
        origins: set[str] = set()
        for column in columns:
            found = self._origins_of(column)
            if found is None:
                return rows
            origins |= found
        inputs = self.rows(INPUT)
        if not inputs:
            return 0.0
        # Equal lists have equal elements: a level below repeats itself as the input does.
        return min(rows, self._together(origins) * max(1.0, rows / inputs))

    def _together(self, inputs: Iterable[str]) -> float:
        names = tuple(sorted(inputs))
        known = self.statistics.distinct.get(names)
        if known is not None or not self.rows(INPUT):
            return known or 0.0
        product = 1.0
        for name in names:
            product *= self.statistics.distinct.get((name,), self.rows(INPUT))
        return min(product, self.rows(INPUT))

    def _origins_of(self, column: str) -> frozenset[str] | None:
        maker = self.graph.maker(column)
        return frozenset({column}) if maker is None else self._origins[maker.name]

    @cached_property
    def _origins(self) -> dict[str, frozenset[str] | None]:
        """Of each operator the input columns that alone decide its values; None: others do too."""
        origins: dict[str, frozenset[str] | None] = {}
        for each in self.graph.operators:
            found: set[str] | None = set()
            for name in self.graph.read_by(each):
                of = origins[name]
                found = None if of is None or found is None else found | of
            is_group = each.shape == REDUCE and each.makes is not None
            if found is None or is_group or not each.is_pure:
                origins[each.name] = None
            else:
                read = {column for column in each.reads if column in self.graph.inputs}
                origins[each.name] = frozenset(found | read)
        return origins

    def together_read(self) -> set[tuple[str, ...]]:
        """Sets of input columns whose different values are worth counting in the input."""
        sets: set[tuple[str, ...]] = set()
        for operator in self.graph.operators:
            seen: set[str] = set()
            for column in operator.reads:
                origins = self._origins_of(column) or frozenset()
                seen |= origins
                sets |= {tuple(sorted(seen)), tuple(sorted(origins))}
        return sets - {()}
