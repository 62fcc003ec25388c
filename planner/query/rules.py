"""What makes a workflow smaller before it runs: one rewrite a rule, none of which changes a result.

A rule that only notes something notes it afresh each time it is applied, so that it still holds
after whatever the others did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import networkx as nx

from batchpipe.planner.query.counts import KEPT, Counts
from batchpipe.planner.query.estimate import Estimate, estimated
from batchpipe.planner.query.graph import FILTER, MAP, REDUCE, Operator, QueryGraph
from batchpipe.planner.query.prompt import ANSWER, begins_with_answer, columns_of, named_blocks
from batchpipe.planner.query.statistics import Statistics
from batchpipe.planner.query.twins import identities

Rule = Callable[[QueryGraph, Statistics], QueryGraph]


def drop_unused(graph: QueryGraph, _: Statistics) -> QueryGraph:
    """Only operators are left whose values the results show or depend on."""
    shown = graph.path(graph.result_level)
    found = {maker.name for column in graph.outputs if (maker := graph.maker(column)) is not None}
    found |= {e.name for e in graph.operators if e.shape == FILTER and e.level in shown}
    needed: set[str] = set()
    while found:
        operator = graph.by_name[found.pop()]
        needed.add(operator.name)
        found |= graph.read_by(operator)
        if operator.shape == REDUCE:
            found |= graph.filters_before(operator)
        found -= needed
    return graph.with_operators(each for each in graph.operators if each.name in needed)


def merge_identical(graph: QueryGraph, _: Statistics) -> QueryGraph:
    """Of operators that make equal values the first is asked, and the others' names mean it."""
    first: dict[str, str] = {}
    same_as: dict[str, str] = {}
    for name, identity in identities(graph).items():
        if first.setdefault(identity, name) != name:
            same_as[name] = first[identity]
    if not same_as:
        return graph
    left = [each for each in graph.operators if each.name not in same_as]
    merged = {name: same_as.get(same, same) for name, same in graph.same_as.items()} | same_as
    # A filter may not await what its twin needed, nor the other way round: see `filters_first`.
    return graph.with_operators(
        (replace(e, level=same_as.get(e.level, e.level), after=frozenset()) for e in left), merged
    )


def filters_first(graph: QueryGraph, statistics: Statistics) -> QueryGraph:
    """What a filter may drop is not asked for before, where that costs and the filter needs it not.

    Filters that need little and drop much come first: the others' needs await them.
    """
    graph = graph.with_operators(replace(each, after=frozenset()) for each in graph.operators)
    estimates = estimated(graph, statistics)
    waiting = [each for each in graph.operators if each.shape == FILTER]
    decided: set[str] = set()  # what the filters so far need
    while waiting:
        ranks = [_filter_rank(graph, each, decided, estimates, statistics) for each in waiting]
        filter_ = waiting.pop(ranks.index(min(ranks)))
        decided |= nx.ancestors(graph.edges, filter_.name)
        graph = _awaited(graph, filter_)
    return graph


def _filter_rank(
    graph: QueryGraph,
    filter_: Operator,
    decided: set[str],
    estimates: dict[str, Estimate],
    statistics: Statistics,
) -> tuple[float, float]:
    """What must still be computed to decide it, for each row that it drops."""
    needs = nx.ancestors(graph.edges, filter_.name) - decided
    costly = [estimates[name] for name in needs if graph.by_name[name].is_costly]
    dropped = max(1e-9, 1 - statistics.kept.get(filter_.name, KEPT))
    return (
        sum(each.tokens for each in costly) / dropped,
        sum(each.calls for each in costly) / dropped,
    )


def _awaited(graph: QueryGraph, filter_: Operator) -> QueryGraph:
    """Costly operators of the filter's rows await it, unless it needs them."""
    for each in graph.operators:
        known = nx.ancestors(graph.edges, each.name)
        if (
            each.is_costly
            and filter_.level in graph.path(each.level)
            and filter_.name not in known
            and not nx.has_path(graph.edges, each.name, filter_.name)
        ):
            waits = replace(each, after=each.after | {filter_.name})
            graph = graph.with_operators(
                waits if other.name == each.name else other for other in graph.operators
            )
    return graph


def collapse_rows(graph: QueryGraph, _: Statistics) -> QueryGraph:
    """Rows that ask a model, a database or a host the same ask once, where the answer is one."""
    return graph.with_operators(
        replace(each, collapses=each.is_costly and each.is_pure) for each in graph.operators
    )


def shared_text_first(graph: QueryGraph, statistics: Statistics) -> QueryGraph:
    """Order-free blocks stand in the order of how few different texts they are.

    The author's order stays where fewer tokens would be computed with it.
    """
    written = graph.with_operators(replace(e, block_order=()) for e in graph.operators)
    counts = Counts(written, statistics)
    moved = {e.name: _by_sharing(counts, e) for e in written.operators if e.order_free}
    asked = _in_order(written, moved)
    # Blocks that begin with another prompt and its answer may gain more by staying so.
    before = estimated(reuse_answers(written, statistics), statistics)
    after = estimated(reuse_answers(asked, statistics), statistics)
    better = {n for n in moved if after[n].computed_tokens < before[n].computed_tokens}
    return _in_order(graph, {name: moved[name] if name in better else () for name in moved})


def _by_sharing(counts: Counts, operator: Operator) -> tuple[int, ...]:
    """The blocks' places, first those of which there are few different texts."""

    def different(at: int) -> float:
        columns = columns_of(counts.graph, operator, operator.blocks[at])
        return counts.different(columns) if columns else 0.0

    return tuple(sorted(range(len(operator.blocks)), key=different))


def _in_order(graph: QueryGraph, orders: Mapping[str, tuple[int, ...]]) -> QueryGraph:
    """With these orders of blocks; what another order began with is forgotten."""
    return graph.with_operators(
        each
        if orders.get(each.name, each.block_order) == each.block_order
        else replace(each, block_order=orders[each.name], extends=None)
        for each in graph.operators
    )


def reuse_answers(graph: QueryGraph, _: Statistics) -> QueryGraph:
    """A prompt that begins with another operator's prompt and answer goes on from their keys."""

    def extended(later: Operator) -> str | None:
        found = [
            earlier
            for earlier in graph.operators
            if earlier.kind == "llm"
            and f"{earlier.name}.{ANSWER}" in map(graph.column, later.reads)
            and earlier.models[0] == later.models[0]
            and begins_with_answer(graph, later, earlier)
        ]
        if not found:
            return None
        return max(found, key=lambda each: len("".join(named_blocks(graph, each)))).name

    return graph.with_operators(
        replace(each, extends=extended(each) if each.models else None) for each in graph.operators
    )


def fuse_maps(graph: QueryGraph, _: Statistics) -> QueryGraph:
    """Cheap one-to-one operators that become ready together are asked together, in their order."""
    runs: dict[tuple[str, frozenset[str]], list[str]] = {}
    cheap = {e.name: e.level for e in graph.operators if e.shape == MAP and not e.is_costly}
    for name, level in cheap.items():
        needs = nx.ancestors(graph.edges, name)
        outside = frozenset(each for each in needs if cheap.get(each) != level)
        runs.setdefault((level, outside), []).append(name)
    return replace(graph, fused=tuple(tuple(run) for run in runs.values() if len(run) > 1))


RULES: tuple[Rule, ...] = (
    drop_unused,
    merge_identical,
    shared_text_first,
    filters_first,
    collapse_rows,
    reuse_answers,
    fuse_maps,
)
