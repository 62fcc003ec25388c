"""A workflow as the planner sees it: operators that make columns of other columns.

Knows names, what decides an operator's values, and which rows it is asked for; nothing of prompts,
connections or functions. Two operators with equal ``arguments`` over equal columns make equal
values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import networkx as nx

INPUT = ""  # the level of the input's own rows

# How many rows an operator gives for a row that it is asked for.
MAP = "map"  # one
FILTER = "filter"  # one or none
EXPLODE = "explode"  # any number, which are rows of a level of their own
REDUCE = "reduce"  # one for many: a row of the level above, or of a level of groups


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a workflow.

    A *column* is named ``title`` where the input has it and ``step.output`` where a step makes it.
    A *level* is a table of rows, named after the explode or group-by that makes it, `INPUT` for the
    input's rows. An operator is asked once for each row of its level. A reduce brings together the
    rows of the deepest level that it reads: it reads a column of that level at least. One that
    makes groups has the level whose rows it groups.

    ``blocks`` are what its prompt is joined of, with nothing between them, or its messages where it
    has ``roles``. "⟨0⟩" is where ``reads[0]`` stands as it is, "⟨=...⟩" any other expression, and
    "⟨<⟩" a "⟨" of the author's.
    """

    name: str
    kind: str  # llm, sql, http, python, filter, explode, reduce, vote or cascade
    reads: tuple[str, ...]  # columns, in the order in which its arguments name them
    writes: tuple[str, ...]  # fields: "output" is the column "name.output"
    arguments: str  # all that decides its values but its name and blocks; "⟨0⟩" is reads[0]
    level: str = INPUT  # whose rows it is asked for
    shape: str = MAP
    makes: str | None = None  # the level of the rows that an explode or a reduce gives
    models: tuple[str, ...] = ()  # that it may ask, the first always
    resource: str | None = None  # the database or host that it asks
    is_pure: bool = True  # asked again with the same, it answers the same
    is_costly: bool = False  # asks a model, a database or a host
    blocks: tuple[str, ...] = ()  # of its prompt, as the author wrote them
    roles: tuple[str, ...] = ()  # of the blocks, where they are messages
    order_free: bool = False  # the blocks may stand in any order
    line: int | None = None  # of the file that names it
    # What the rules found out.
    after: frozenset[str] = frozenset()  # filters that it awaits without reading them
    extends: str | None = None  # the llm operator whose prompt and answer begin its own prompt
    collapses: bool = False  # asked once for all rows that ask it the same
    block_order: tuple[int, ...] = ()  # which block stands where; empty: as the author wrote them

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it makes."""
        return tuple(f"{self.name}.{field}" for field in self.writes)

    @property
    def gives(self) -> str:
        """The level on which its columns are."""
        return self.level if self.makes is None else self.makes

    @property
    def prompt(self) -> tuple[str, ...]:
        """The blocks in the order in which they are asked."""
        return tuple(self.blocks[at] for at in self.block_order) or self.blocks


@dataclass(frozen=True)
class QueryGraph:
    """The operators of a workflow, each after those that it reads or awaits.

    ``same_as`` names, for operators that are asked no more, the one whose values are theirs; who
    reads them still does so under the old name.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]  # columns of the input
    outputs: tuple[str, ...]  # columns that the results show
    same_as: Mapping[str, str] = field(default_factory=dict)
    fused: tuple[tuple[str, ...], ...] = ()  # runs of cheap operators that are asked together

    # ---- who makes what --------------------------------------------------------------------

    @cached_property
    def by_name(self) -> dict[str, Operator]:
        """Each operator under its name, and under the names that mean the same."""
        known = {operator.name: operator for operator in self.operators}
        return known | {name: known[same] for name, same in self.same_as.items()}

    def maker(self, column: str) -> Operator | None:
        """The operator that makes the column; None where the input has it."""
        return None if column in self.inputs else self.by_name[column.partition(".")[0]]

    def column(self, name: str) -> str:
        """The column under the name of the operator that is asked for it."""
        maker = self.maker(name)
        return name if maker is None else f"{maker.name}.{name.partition('.')[2]}"

    def sources(self, operator: Operator) -> tuple[Operator, ...]:
        """The operators whose values it reads, or which it awaits; each once, by name."""
        found = self.read_by(operator) | operator.after
        if operator.shape == REDUCE:
            found |= self.filters_before(operator)
        return tuple(self.by_name[name] for name in sorted(found))

    def read_by(self, operator: Operator) -> set[str]:
        """The names of the operators whose values it reads."""
        makers = (self.maker(column) for column in operator.reads)
        return {maker.name for maker in makers if maker is not None}

    # ---- levels ----------------------------------------------------------------------------

    @cached_property
    def _level_makers(self) -> dict[str, Operator]:
        return {each.makes: each for each in self.operators if each.makes is not None}

    def path(self, level: str) -> tuple[str, ...]:
        """The level and all above it: those whose columns its rows see.

        Nothing is above the input's rows, nor above groups.
        """
        maker = self._level_makers.get(level)
        if maker is None or maker.shape == REDUCE:
            return (level,)
        return (level, *self.path(maker.level))

    def deepest(self, columns: Iterable[str]) -> str:
        """The level whose rows tell all these columns' values apart; the input's for none."""
        levels = [INPUT]
        for column in columns:
            maker = self.maker(column)
            levels.append(INPUT if maker is None else maker.gives)
        # A level of groups has as short a path as the input's, and is named.
        return max(levels, key=lambda level: (len(self.path(level)), level != INPUT))

    @property
    def result_level(self) -> str:
        """The level whose rows are the results'."""
        return self.deepest(self.outputs)

    # ---- filters ---------------------------------------------------------------------------

    def filters_before(self, reduce: Operator) -> set[str]:
        """The filters that leave rows out of what this reduce brings together.

        All that drop such rows do, whether it reads them or not, save those that themselves read
        what a reduce made of these rows: they come after every reduce.
        """
        return {
            each.name
            for each in self.operators
            if each.shape == FILTER
            and self._leaves_out(each, reduce)
            and not any(
                self._leaves_out(each, other)
                for other in map(self.by_name.__getitem__, nx.ancestors(self.reading, each.name))
                if other.shape == REDUCE
            )
        }

    def _leaves_out(self, filter_: Operator, reduce: Operator) -> bool:
        """True where rows that the filter drops, or rows below them, come together in the reduce.

        A filter of the reduce's own rows, or of those above, drops all that would come together.
        """
        above = () if reduce.makes is not None else self.path(reduce.level)
        return filter_.level in self.path(self.deepest(reduce.reads)) and filter_.level not in above

    # ---- edges -----------------------------------------------------------------------------

    @cached_property
    def reading(self) -> nx.DiGraph[str]:
        """Who reads whom: from an operator's name to those that read its values."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(operator.name for operator in self.operators)
        for operator in self.operators:
            graph.add_edges_from((name, operator.name) for name in sorted(self.read_by(operator)))
        return graph

    @cached_property
    def edges(self) -> nx.DiGraph[str]:
        """Who awaits whom: from an operator's name to those that need it."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(operator.name for operator in self.operators)
        for operator in self.operators:
            graph.add_edges_from((each.name, operator.name) for each in self.sources(operator))
        return graph

    def with_operators(
        self, operators: Iterable[Operator], same_as: Mapping[str, str] | None = None
    ) -> QueryGraph:
        """The same workflow with these operators, each after those that it needs.

        Operators that do not await one another stay in their order. What the rules found out of
        operators that are gone is forgotten.

        Raises:
            networkx.NetworkXUnfeasible: they await one another in a circle
        """
        left = tuple(operators)
        names = {each.name for each in left}
        merged = self.same_as if same_as is None else same_as
        changed = replace(
            self,
            operators=tuple(
                replace(
                    each,
                    after=each.after & names,
                    extends=each.extends if each.extends in names else None,
                )
                for each in left
            ),
            same_as={name: same for name, same in merged.items() if same in names},
            fused=tuple(run for run in self.fused if names.issuperset(run)),
        )
        place = {each.name: at for at, each in enumerate(left)}
        order = nx.lexicographical_topological_sort(changed.edges, key=place.__getitem__)
        return replace(changed, operators=tuple(changed.by_name[name] for name in order))
