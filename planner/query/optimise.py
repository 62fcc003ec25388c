"""Applies the rules until none changes anything, and tells what each of them did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchpipe.planner.query.changes import changes
from batchpipe.planner.query.estimate import Estimate, estimated, together
from batchpipe.planner.query.graph import QueryGraph
from batchpipe.planner.query.rules import RULES, Rule
from batchpipe.planner.query.statistics import Statistics

MOST_ROUNDS = 20  # of all rules; two or three are usual


@dataclass(frozen=True, slots=True)
class Applied:
    """One rule's work on a workflow, once."""

    rule: str
    changes: tuple[str, ...]  # a sentence each
    saved_calls: float
    saved_tokens: float  # that would have gone through a model


@dataclass(frozen=True, slots=True)
class Optimised:
    """A workflow before and after the rules, and what they did."""

    written: QueryGraph
    graph: QueryGraph
    before: dict[str, Estimate]  # by operator
    after: dict[str, Estimate]
    trace: tuple[Applied, ...]

    @property
    def saved_calls(self) -> float:
        """Calls of models, databases and hosts that the rules spare."""
        return sum(each.saved_calls for each in self.trace)

    @property
    def saved_tokens(self) -> float:
        """Tokens that need not go through a model."""
        return sum(each.saved_tokens for each in self.trace)


def optimise(graph: QueryGraph, statistics: Statistics, rules: Sequence[Rule] = RULES) -> Optimised:
    """The workflow that makes the same results and that no rule can better.

    Raises:
        networkx.NetworkXUnfeasible: operators await one another in a circle
        RuntimeError: the rules never come to an end, which is a fault of theirs
    """
    written = graph = graph.with_operators(graph.operators)
    before = after = estimated(graph, statistics)
    trace: list[Applied] = []
    for _ in range(MOST_ROUNDS):
        changed = []
        for rule in rules:
            better = rule(graph, statistics)
            if better == graph:
                continue
            had = together(graph, after)
            after = estimated(better, statistics)
            has = together(better, after)
            trace.append(
                Applied(
                    rule.__name__,
                    changes(graph, better),
                    had.calls - has.calls,
                    had.tokens - has.tokens,
                )
            )
            changed.append(rule.__name__)
            graph = better
        if not changed:
            return Optimised(written, graph, before, after, tuple(trace))
    raise RuntimeError(f"after {MOST_ROUNDS} rounds the rules {', '.join(changed)} still change it")
