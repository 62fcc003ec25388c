"""Every row goes on as soon as what it reads is there; no step waits for another row's.

Knows what waits for what and whom a failure takes along. Asks nobody: what may be asked lies in
`ready`, and whoever asked it settles it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from batchpipe.planner.query.graph import EXPLODE, FILTER
from batchpipe.workflow.running.levels import Gather, Levels, Node
from batchpipe.workflow.running.rows import Coming, Row, Tree

Values = Mapping[str, Any]


class Wavefront:
    """The rows in memory, and what may be asked for them."""

    def __init__(self, levels: Levels) -> None:
        self.levels = levels
        self.ready: deque[tuple[Row, str]] = deque()  # a row, and what may be asked for it
        self.finished: list[Tree] = []  # of which nothing is open; who takes them clears this
        self.dropped = 0  # rows, by filters
        graph = levels.graph
        self._by_name = graph.by_name
        self._aliases: dict[str, list[str]] = {}
        for alias, name in graph.same_as.items():
            self._aliases.setdefault(graph.by_name[name].name, []).append(alias)
        self._changed: deque[tuple[Row, Node]] = deque()  # that wait for nothing any more
        self._widening: deque[Tree] = deque()  # whose lists have elements that are no rows yet
        self._at_work = False

    def admit(
        self,
        table: str,
        ordinal: int,
        values: Values,
        causes: Mapping[str, str] | None = None,  # of a group: why it could not be made
    ) -> Tree:
        """The row is in memory, and what it lets be asked is ready."""
        tree = Tree(table, ordinal)
        tree.row.values.update(values)
        tree.row.causes.update(causes or {})
        self._begin(tree.row)
        self._go_on()
        if not tree.open:
            self.finished.append(tree)
        return tree

    def widen(self, most: int) -> Tree | None:
        """Up to so many elements of lists have become rows, in their order; returns whose.

        So a list of a million elements is no million questions at once. The lists of a row come
        before those of the rows behind it, and each list before the next of those around it.
        """
        while self._widening:
            tree = self._widening[0]
            if tree.coming and not tree.row.is_dropped:
                self._make_rows(tree, most)
                self._go_on()
                self._check_finished(tree)
                return tree
            self._widening.popleft()
        return None

    def settle(self, row: Row, name: str, values: Values) -> None:
        """The operator has these values here; who waited for them goes on.

        A filter's are ``kept``, an explode's ``items``.
        """
        if row.is_dropped or name in row.settled:
            return
        shape = self._by_name[name].shape
        if shape == FILTER:
            if not values["kept"]:
                self.dropped += 1
                self.drop(row)
                return
        elif shape == EXPLODE:
            self._explode(row, name, values["items"])
            return
        elif name in self.levels.gathers and self.levels.gathers[name].makes_groups:
            row.tree.gathered[name] = values["gathered"]
        else:
            self._keep(row, name, values)
        self._settled(row, name)

    def fail(self, row: Row, name: str, cause: str) -> None:
        """The operator has no values here, and whatever needs them has none either."""
        if row.is_dropped or name in row.settled:
            return
        for each in (name, *self._aliases.get(name, ())):
            row.causes[each] = cause
        self._settled(row, name)

    def drop(self, row: Row) -> None:
        """Nothing more is asked for the row and all below it, and nobody waits for them."""
        if row.is_dropped:
            return
        self._mark_dropped(row)
        if row.above is None:
            row.tree.open = 0
            self.finished.append(row.tree)
            return
        for node in self.levels.nodes[row.level]:
            if not node.is_asked and row.waits.pop(node.operator, None) is not None:
                self._less(row.above, node.operator)
        self._go_on()
        self._check_finished(row.tree)

    def members(self, row: Row, gather: Gather) -> Iterator[tuple[Row, str | None]]:
        """The rows that come together here, in order, each with why it cannot be one of them.

        A row whose explode failed stands for those that it might have had.
        """
        path = self.levels.path(gather.of)
        yield from self._members(row, path[path.index(row.level) + 1 :], gather)

    def _members(
        self, row: Row, path: tuple[str, ...], gather: Gather
    ) -> Iterator[tuple[Row, str | None]]:
        if row.is_dropped:
            return
        if not path:
            yield row, row.cause(gather.needs)
            return
        maker = self.levels.maker(path[0])
        if maker in row.causes:
            yield row, row.causes[maker]
        for each in row.below.get(path[0], ()):
            yield from self._members(each, path[1:], gather)

    def _keep(self, row: Row, name: str, values: Values) -> None:
        for each in (name, *self._aliases.get(name, ())):
            row.values[each] = values

    def _explode(self, row: Row, name: str, items: list[Any]) -> None:
        level = self._by_name[name].makes
        assert level is not None, f"{name} makes no level"
        for node in self.levels.nodes[row.level]:
            if node.below == level and node.operator in row.waits:
                row.waits[node.operator] += len(items)
        row.below[level] = []
        if items:
            if not row.tree.coming:
                self._widening.append(row.tree)
            row.tree.coming.append(Coming(row, name, level, items))
        self._settled(row, name)

    def _make_rows(self, tree: Tree, most: int) -> None:
        coming = tree.coming[-1]
        row, end = coming.row, min(len(coming.items), coming.made + most)
        if not row.is_dropped:
            for index in range(coming.made, end):
                below = Row(coming.level, (*row.key, index), row, tree)
                row.below[coming.level].append(below)
                self._keep(below, coming.explode, {"item": coming.items[index], "index": index})
                self._begin(below)
        coming.made = end
        if row.is_dropped or end == len(coming.items):
            tree.coming.pop()  # nothing was exploded since: that waits for `_go_on`

    def _begin(self, row: Row) -> None:
        """The new row waits for what is not there yet."""
        for node in self.levels.nodes[row.level]:
            missing = sum(not row.has_settled(name) for name in node.awaits)
            row.tree.open += node.is_asked
            row.waits[node.operator] = missing
            if not missing:
                self._changed.append((row, node))

    def _settled(self, row: Row, name: str) -> None:
        row.settled.add(name)
        row.tree.open -= 1
        for node in self.levels.waiting[name]:
            for each in self._rows_at(row, node.level):
                self._less(each, node.operator)
        self._go_on()
        self._check_finished(row.tree)

    def _rows_at(self, row: Row, level: str) -> Iterator[Row]:
        """The rows of this level under the row that were there before, or the row itself."""
        if row.level == level:
            yield row
            return
        path = self.levels.path(level)
        below = path[path.index(row.level) + 1]
        for each in row.below.get(below, ()):
            yield from self._rows_at(each, level)

    def _less(self, row: Row, operator: str) -> None:
        """The operator waits for one thing less at this row."""
        left = row.waits.get(operator)
        if left is None or row.is_dropped:
            return
        row.waits[operator] = left - 1
        if left == 1:
            self._changed.append((row, self.levels.node(row.level, operator)))

    def _go_on(self) -> None:
        """Whatever waits for nothing any more is ready, has failed, or tells who gathers it."""
        if self._at_work:
            return
        self._at_work = True
        while self._changed:
            row, node = self._changed.popleft()
            if row.is_dropped or row.waits.pop(node.operator, None) is None:
                continue
            if not node.is_asked:
                assert row.above is not None, f"{node.operator} gathers above the topmost level"
                self._less(row.above, node.operator)
                continue
            cause = self._inherited(row, node)
            if cause is None:
                self.ready.append((row, node.operator))
            else:
                self.fail(row, node.operator, cause)
        self._at_work = False

    def _inherited(self, row: Row, node: Node) -> str | None:
        """Why the operator cannot be asked here: something that it needs has failed."""
        gather = self.levels.gathers.get(node.operator)
        if gather is not None and gather.makes_groups:
            return None  # each row brings its own cause
        above = row.cause((*node.given, *node.awaits))
        if gather is None:
            return above
        if above is not None or gather.skips_failed:
            return above
        return next((cause for _, cause in self.members(row, gather) if cause is not None), None)

    def _mark_dropped(self, row: Row) -> None:
        row.is_dropped = True
        asked = [node for node in self.levels.nodes[row.level] if node.is_asked]
        row.tree.open -= sum(node.operator not in row.settled for node in asked)
        for rows in row.below.values():
            for each in rows:
                if not each.is_dropped:
                    self._mark_dropped(each)

    def _check_finished(self, tree: Tree) -> None:
        is_whole = not tree.open and not tree.coming
        if is_whole and not self._at_work and not tree.row.is_dropped:
            self.finished.append(tree)
