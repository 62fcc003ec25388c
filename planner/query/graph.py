"""A workflow as the planner sees it: operators that make columns of other columns.

Knows names, what decides an operator's values, and which rows it is asked for; nothing of prompts,
connections or functions. Two operators with equal ``arguments`` over equal columns make equal
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    input's rows. An operator is asked once for each row of its level.
    """

    name: str
    kind: str  # llm, sql, http, python, filter, explode, reduce, vote or cascade
    reads: tuple[str, ...]  # columns, in the order in which its arguments name them
    writes: tuple[str, ...]  # fields: "output" is the column "name.output"
    arguments: str  # all that decides its values but its name; "⟨0⟩" stands for reads[0]
    level: str = INPUT  # whose rows it is asked for
    shape: str = MAP
    makes: str | None = None  # the level of the rows that an explode or a reduce gives
    models: tuple[str, ...] = ()  # that it may ask, the first always
    resource: str | None = None  # the database or host that it asks
    is_pure: bool = True  # asked again with the same, it answers the same
    is_costly: bool = False  # asks a model, a database or a host
    blocks: tuple[str, ...] = ()  # of its prompt, where they may stand in any order
    line: int | None = None  # of the file that names it
    # What the rules found out.
    after: frozenset[str] = frozenset()  # operators that it awaits without reading them
    extends: str | None = (
        None  # the llm operator whose prompt and answer its own prompt begins with
    )
    collapses: bool = False  # asked once for all rows that ask it the same

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it makes."""
        return tuple(f"{self.name}.{field}" for field in self.writes)


@dataclass(frozen=True)
class QueryGraph:
    """The operators of a workflow, each after those that it reads or awaits.

    ``same_as`` names, for operators that are asked no more, the one whose values are theirs.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[str, ...]  # columns of the input
    outputs: tuple[str, ...]  # columns that the results show
    same_as: Mapping[str, str] = field(default_factory=dict)
    fused: tuple[tuple[str, ...], ...] = ()  # runs of cheap operators that are asked together

    @cached_property
    def by_name(self) -> dict[str, Operator]:
        """Each operator under its name, and under the names that mean the same."""
        known = {operator.name: operator for operator in self.operators}
        return known | {name: known[same] for name, same in self.same_as.items()}

    def sources(self, operator: Operator) -> tuple[Operator, ...]:
        """The operators whose values it reads, or which it awaits; each once, by name."""
        steps = {read.partition(".")[0] for read in operator.reads if "." in read}
        found = {self.by_name[name].name for name in steps | operator.after}
        return tuple(self.by_name[name] for name in sorted(found))

    @cached_property
    def edges(self) -> nx.DiGraph[str]:
        """Who awaits whom: from an operator's name to those that need it."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(operator.name for operator in self.operators)
        for operator in self.operators:
            graph.add_edges_from((each.name, operator.name) for each in self.sources(operator))
        return graph
