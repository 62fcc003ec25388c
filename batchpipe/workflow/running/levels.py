"""Which rows a workflow has, and what each of them waits for; known before any row is.

A *level* is a table of rows. The input's rows and the groups of a group-by are levels of their own;
an explode makes a level below the one that it is asked for. A row of a level has a *key*: its
number in the topmost level above it, then its place among the elements of every explode.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from batchpipe.planner.query.graph import EXPLODE, INPUT, REDUCE, Operator, QueryGraph
from batchpipe.workflow.steps import Flow, Reduce

Key = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """What one row has to do: ask an operator, or be ready for one that gathers rows."""

    operator: str
    level: str
    awaits: tuple[str, ...]  # operators whose values are not there from the beginning
    below: str | None = None  # the level from which it gathers
    given: tuple[str, ...] = ()  # group-bys of whose groups the row is one, or is below
    is_asked: bool = True  # False: the operator is asked for a row above


@dataclass(frozen=True, slots=True)
class Gather:
    """A reduce: the rows of a level come together, at one above it or in groups."""

    name: str
    of: str  # the level
    at: str  # the level whose rows gather
    makes_groups: bool
    skips_failed: bool
    needs: tuple[str, ...]  # operators that each gathered row needs, in the graph's order


class Levels:
    """The levels of a graph, the nodes of their rows, and who waits for whom."""

    def __init__(self, graph: QueryGraph, flow: Flow) -> None:
        self.graph = graph
        self.above: dict[str, str | None] = {INPUT: None}
        for operator in graph.operators:
            if operator.makes is not None:
                is_explode = operator.shape == EXPLODE
                self.above[operator.makes] = operator.level if is_explode else None
        self._paths = {level: graph.path(level)[::-1] for level in self.above}
        self._makers = {each.makes: each.name for each in graph.operators if each.makes is not None}
        steps = {step.name: step for step in flow.steps}
        self.gathers: dict[str, Gather] = {}
        nodes: dict[str, list[Node]] = {level: [] for level in self.above}
        for operator in graph.operators:
            if operator.shape == REDUCE:
                step = steps[operator.name]
                assert isinstance(step, Reduce), f"{operator.name} reduces and is no reduce"
                for node in self._gathering(operator, step):
                    nodes[node.level].append(node)
            else:
                awaits, given = self._awaited(operator), self._given(operator.level)
                nodes[operator.level].append(
                    Node(operator.name, operator.level, awaits, given=given)
                )
        self.nodes: Mapping[str, tuple[Node, ...]] = {
            level: tuple(some) for level, some in nodes.items()
        }

        self._node = {(e.level, e.operator): e for some in self.nodes.values() for e in some}

    def node(self, level: str, operator: str) -> Node:
        """What a row of the level has to do for the operator."""
        return self._node[level, operator]

    @property
    def tables(self) -> tuple[str, ...]:
        """The levels without one above, the input first, each behind those that it is made of."""
        return tuple(level for level, above in self.above.items() if above is None)

    def path(self, level: str) -> tuple[str, ...]:
        """The levels from the topmost to this one."""
        return self._paths[level]

    @cached_property
    def waiting(self) -> Mapping[str, tuple[Node, ...]]:
        """By operator, the nodes that await its values."""
        found: dict[str, list[Node]] = {operator.name: [] for operator in self.graph.operators}
        for nodes in self.nodes.values():
            for node in nodes:
                for name in node.awaits:
                    found[name].append(node)
        return {name: tuple(some) for name, some in found.items()}

    def maker(self, level: str) -> str:
        """The operator that gives the level its rows."""
        return self._makers[level]

    def group_by(self, table: str) -> Gather | None:
        """What makes the groups that are this level's rows; None for the input's."""
        return next(
            (each for each in self.gathers.values() if each.makes_groups and each.name == table),
            None,
        )

    def _awaited(self, operator: Operator) -> tuple[str, ...]:
        """What it reads or awaits and a row of its level does not have from the beginning."""
        path = self.path(operator.level)
        return tuple(
            source.name
            for source in self.graph.sources(operator)
            if source.makes is None or source.makes not in path
        )

    def _given(self, level: str) -> tuple[str, ...]:
        """What made the topmost row: a group has its values, or the reason why not, at once."""
        table = self.path(level)[0]
        return (self.maker(table),) if table != INPUT else ()

    def _gathering(self, operator: Operator, step: Reduce) -> Iterator[Node]:
        """A node for each level from where the operator is asked down to what it gathers."""
        of = self.graph.deepest(operator.reads)
        path = self.path(of)
        at = path[0] if operator.makes is not None else operator.level
        path = path[path.index(at) :]
        needed = self._in_order(self._awaited(operator))
        self.gathers[operator.name] = Gather(
            operator.name,
            of,
            at,
            makes_groups=operator.makes is not None,
            skips_failed=step.on_error == "skip",
            needs=(*self._given(of), *needed),
        )
        below = (*path[1:], None)
        for level, lower in zip(path, below, strict=True):
            here = [each for each in needed if self._home(each, path) == level]
            if lower is not None:
                here.append(self.maker(lower))
            yield Node(
                operator.name,
                level,
                tuple(dict.fromkeys(here)),
                below=lower,
                given=self._given(level),
                is_asked=level == at,
            )

    def _home(self, name: str, path: Collection[str]) -> str:
        """The level of this path at which the operator's values are waited for."""
        level = self.graph.by_name[name].level
        return level if level in path else next(iter(path))

    def _in_order(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(each.name for each in self.graph.operators if each.name in names)
