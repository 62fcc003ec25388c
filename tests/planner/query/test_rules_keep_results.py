"""Whatever rules are applied, the workflow's results stay what they were."""

from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st
from interpreter import Interpreter
from random_workflows import query_graphs

from batchpipe.planner.query.graph import INPUT, MAP, QueryGraph
from batchpipe.planner.query.optimise import optimise
from batchpipe.planner.query.rules import RULES, Rule, filters_first
from batchpipe.planner.query.statistics import Statistics

STATISTICS = Statistics(rows={INPUT: 40}, distinct={("title",): 4, ("genre",): 40})
some_rules = st.lists(st.sampled_from(RULES), unique=True)
tables = st.lists(
    st.fixed_dictionaries({name: st.integers(0, 3) for name in ("title", "genre", "text")}),
    min_size=1,
    max_size=6,
)


@given(query_graphs(), some_rules, tables)
def test_any_rules_in_any_order_leave_the_results_as_they_were(
    graph: QueryGraph, rules: list[Rule], table: list[dict[str, int]]
) -> None:
    found = optimise(graph, STATISTICS, rules)
    plain, better = Interpreter(found.written), Interpreter(found.graph)
    assert better.run(table) == plain.run(table)
    if filters_first not in rules:  # which filter comes first is a guess; all else only spares
        assert better.asked <= plain.asked


@given(query_graphs(), tables)
def test_all_rules_together_leave_the_results_as_they_were(
    graph: QueryGraph, table: list[dict[str, int]]
) -> None:
    found = optimise(graph, STATISTICS)
    plain, better = Interpreter(found.written), Interpreter(found.graph)
    assert better.run(table) == plain.run(table)


@given(query_graphs())
def test_rules_find_nothing_more_in_what_they_have_made(graph: QueryGraph) -> None:
    made = optimise(graph, STATISTICS).graph
    again = optimise(made, STATISTICS)
    assert again.trace == ()
    assert again.graph == made


@given(query_graphs())
def test_estimates_never_grow_by_the_rules(graph: QueryGraph) -> None:
    found = optimise(graph, STATISTICS)
    for applied in found.trace:
        assert applied.saved_calls >= -1e-6
        assert applied.saved_tokens >= -1e-6


@given(query_graphs())
def test_operators_that_are_asked_together_await_nobody_in_between(graph: QueryGraph) -> None:
    made = optimise(graph, STATISTICS).graph
    for run in made.fused:
        assert all(made.by_name[name].shape == MAP for name in run)
        assert len({made.by_name[name].level for name in run}) == 1
        others = set(made.by_name) - set(run)
        for name in others & set(made.edges):
            before = nx.descendants(made.edges, name) & set(run)
            after = nx.ancestors(made.edges, name) & set(run)
            assert not (before and after)
            # Who is awaited by one of them is awaited by each.
            assert before in (set(), set(run))
