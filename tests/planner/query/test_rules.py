"""Each rule by a workflow before and after it, as trees."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest
from interpreter import Interpreter
from toy_workflows import step, workflow

from batchpipe.planner.query.graph import INPUT, QueryGraph
from batchpipe.planner.query.graph_text import graph_tree
from batchpipe.planner.query.optimise import optimise
from batchpipe.planner.query.rules import (
    Rule,
    collapse_rows,
    drop_unused,
    filters_first,
    fuse_maps,
    merge_identical,
    reuse_answers,
    shared_text_first,
)
from batchpipe.planner.query.statistics import Statistics

STATISTICS = Statistics(
    rows={INPUT: 1000},
    distinct={("title",): 1000, ("genre",): 10, ("text",): 200},
    column_tokens={"title": 8, "genre": 2, "text": 300},
)


def check(rule: Rule, graph: QueryGraph, expected: str) -> None:
    """The rule makes the expected tree, and the same results."""
    better = rule(graph, STATISTICS)
    assert graph_tree(better) == textwrap.dedent(expected).strip()
    assert rule(better, STATISTICS) == better
    table = [{"title": at, "genre": at % 2, "text": at % 3} for at in range(9)]
    assert Interpreter(better).run(table) == Interpreter(graph).run(table)


def test_steps_are_dropped_that_no_result_depends_on() -> None:
    check(
        drop_unused,
        workflow(
            step("facts", "sql", "title"),
            step("unused", "llm", "facts.rows"),
            step("keep", "filter", "genre"),
            step("each", "explode", "facts.rows"),
            step("some", "filter", "each.item", level="each"),
            step("answer", "llm", "facts.first"),
            outputs=("answer.output",),
        ),
        """
        input: title, genre, text
        └─ facts: sql, reads title
           └─ answer: llm small, reads facts.first
        └─ keep: filter, reads genre
        results: answer.output
        """,
    )


def test_a_filter_stays_that_leaves_rows_out_of_what_comes_together() -> None:
    graph = workflow(
        step("each", "explode", "text"),
        step("some", "filter", "each.item", level="each"),
        step("all", "reduce", "each.item"),
        outputs=("all.items",),
    )
    check(
        drop_unused,
        graph,
        """
        input: title, genre, text
        └─ each: explode, reads text
           └─ some: filter for each each, reads each.item
              └─ all: reduce, reads each.item
        results: all.items
        """,
    )


def test_twins_are_asked_once_and_so_are_their_twins() -> None:
    check(
        merge_identical,
        workflow(
            step("a", "llm", "title"),
            step("b", "llm", "title"),
            step("other", "llm", "title", models=("large",)),
            step("c", "python", "a.output"),
            step("d", "python", "b.output"),
            outputs=("c.value", "d.value", "other.output"),
        ),
        """
        input: title, genre, text
        └─ a: llm small, reads title
           └─ c: python, reads a.output
        └─ other: llm large, reads title
        b = a
        d = c
        results: c.value, d.value, other.output
        """,
    )


def test_what_is_drawn_twice_is_no_twin() -> None:
    graph = workflow(
        step("a", "llm", "title", is_pure=False),
        step("b", "llm", "title", is_pure=False),
        step("c", "python", "a.output"),
        step("d", "python", "b.output"),
        outputs=("c.value", "d.value"),
    )
    assert merge_identical(graph, STATISTICS) == graph


def test_lists_that_are_equal_make_their_rows_once() -> None:
    check(
        merge_identical,
        workflow(
            step("a", "explode", "text"),
            step("b", "explode", "text"),
            step("ask", "llm", "a.item", level="a"),
            step("look", "sql", "b.item", level="b"),
            step("answers", "reduce", "ask.output"),
            step("facts", "reduce", "look.first"),
            outputs=("answers.items", "facts.items"),
        ),
        """
        input: title, genre, text
        └─ a: explode, reads text
           └─ ask: llm small for each a, reads a.item
              └─ answers: reduce, reads ask.output
           └─ look: sql for each a, reads b.item
              └─ facts: reduce, reads look.first
        b = a
        results: answers.items, facts.items
        """,
    )


def test_equal_lists_stay_apart_where_a_filter_drops_rows_of_one() -> None:
    graph = workflow(
        step("a", "explode", "text"),
        step("b", "explode", "text"),
        step("some", "filter", "a.item", level="a"),
        step("few", "reduce", "a.item"),
        step("all", "reduce", "b.item"),
        outputs=("few.items", "all.items"),
    )
    assert merge_identical(graph, STATISTICS) == graph


def test_what_costs_awaits_the_filters_of_its_rows() -> None:
    check(
        filters_first,
        workflow(
            step("label", "llm", "text"),
            step("clean", "python", "title"),
            step("facts", "sql", "title"),
            step("keep", "filter", "facts.rows"),
            step("each", "explode", "facts.rows"),
            step("judge", "llm", "each.item", level="each"),
            outputs=("label.output", "clean.value", "judge.output"),
        ),
        """
        input: title, genre, text
        └─ clean: python, reads title
        └─ facts: sql, reads title
           └─ keep: filter, reads facts.rows
              └─ label: llm small, reads text, after keep
           └─ each: explode, reads facts.rows
              └─ judge: llm small for each each, reads each.item, after keep
        results: label.output, clean.value, judge.output
        """,
    )


def test_the_filter_that_needs_less_comes_first() -> None:
    check(
        filters_first,
        workflow(
            step("long", "llm", "text"),
            step("good", "filter", "long.output"),
            step("short", "llm", "genre"),
            step("right", "filter", "short.output"),
            outputs=("title",),
        ),
        """
        input: title, genre, text
        └─ short: llm small, reads genre
           └─ right: filter, reads short.output
              └─ long: llm small, reads text, after right
                 └─ good: filter, reads long.output
        results: title
        """,
    )


def test_rows_that_ask_the_same_of_what_costs_ask_once() -> None:
    check(
        collapse_rows,
        workflow(
            step("label", "llm", "genre"),
            step("facts", "sql", "genre"),
            step("page", "http", "genre"),
            step("drawn", "llm", "genre", is_pure=False),
            step("clean", "python", "genre"),
            outputs=("label.output",),
        ),
        """
        input: title, genre, text
        └─ label: llm small, reads genre, collapses
        └─ facts: sql, reads genre, collapses
        └─ page: http, reads genre, collapses
        └─ drawn: llm small, reads genre
        └─ clean: python, reads genre
        results: label.output
        """,
    )


def test_shared_text_stands_first_in_blocks_without_an_order() -> None:
    blocks = ("Title: ⟨0⟩\n", "Text: ⟨1⟩\n", "Genre: ⟨2⟩\n", "Be brief.\n")
    check(
        shared_text_first,
        workflow(
            step("free", "llm", "title", "text", "genre", blocks=blocks, order_free=True),
            step("fixed", "llm", "title", "text", "genre", blocks=blocks),
            outputs=("free.output", "fixed.output"),
        ),
        """
        input: title, genre, text
        └─ free: llm small, reads title text genre, blocks 4 3 2 1
        └─ fixed: llm small, reads title text genre
        results: free.output, fixed.output
        """,
    )


def test_blocks_stay_as_written_where_that_shares_more() -> None:
    """Ten texts of three hundred tokens before five labels: the labels first would cost more."""
    statistics = Statistics(
        rows={INPUT: 1000},
        distinct={("text",): 10, ("genre",): 5},
        column_tokens={"text": 300, "genre": 1},
    )
    asked = step("a", "llm", "text", "genre", blocks=("⟨0⟩", "⟨1⟩"), order_free=True)
    graph = workflow(asked, outputs=("a.output",))
    assert shared_text_first(graph, statistics) == graph
    few = {**statistics.distinct, ("text",): 1000}
    moved = shared_text_first(graph, replace(statistics, distinct=few))
    assert moved.by_name["a"].block_order == (1, 0)


def test_blocks_stay_as_written_where_they_begin_with_an_answer() -> None:
    first = step("first", "llm", "text", blocks=("⟨0⟩",))
    blocks = ("⟨0⟩", "⟨1⟩", "Be brief.")
    asked = step("next", "llm", "text", "first.output", blocks=blocks, order_free=True)
    graph = workflow(first, asked, outputs=("next.output",))
    found = optimise(graph, STATISTICS).graph.by_name["next"]
    assert (found.block_order, found.extends) == ((), "first")


def test_twins_but_for_the_order_of_their_blocks_are_found() -> None:
    a = step("a", "llm", "title", "genre", blocks=("⟨0⟩ ", "⟨1⟩ "), order_free=True)
    b = step("b", "llm", "title", "genre", blocks=("⟨1⟩ ", "⟨0⟩ "), order_free=True)
    found = optimise(workflow(a, b, outputs=("a.output", "b.output")), STATISTICS)
    assert found.graph.same_as == {"b": "a"}


def test_a_prompt_goes_on_from_the_longest_one_that_it_begins_with() -> None:
    one, two = "Q: ⟨0⟩ A:", "Q: ⟨0⟩ A:⟨1⟩ Why?"
    check(
        reuse_answers,
        workflow(
            step("first", "llm", "title", blocks=(one,)),
            step("second", "llm", "title", "first.output", blocks=(two,)),
            step("other", "llm", "title", "first.output", blocks=(two,), models=("large",)),
            step("changed", "llm", "title", "first.output", blocks=("Q: ⟨0⟩ A: ⟨1⟩",)),
            step(
                "third",
                "llm",
                *("title", "first.output", "second.output"),
                blocks=("Q: ⟨0⟩ ", "A:⟨1⟩ Why?⟨2⟩ Sure?"),
            ),
            outputs=("third.output", "other.output", "changed.output"),
        ),
        """
        input: title, genre, text
        └─ first: llm small, reads title
           └─ second: llm small, reads title first.output, extends first
              └─ third: llm small, reads title first.output second.output, extends second
           └─ other: llm large, reads title first.output
           └─ changed: llm small, reads title first.output
        results: third.output, other.output, changed.output
        """,
    )


@pytest.mark.parametrize("role", ["assistant", "user"])
def test_a_chat_goes_on_where_the_answer_is_the_assistants_turn(role: str) -> None:
    first = step("first", "llm", "title", blocks=("⟨0⟩",), roles=("user",))
    second = step(
        "second",
        "llm",
        *("title", "first.output"),
        blocks=("⟨0⟩", "⟨1⟩", "Why?"),
        roles=("user", role, "user"),
    )
    found = reuse_answers(workflow(first, second, outputs=("second.output",)), STATISTICS)
    assert found.by_name["second"].extends == ("first" if role == "assistant" else None)


def test_cheap_steps_that_become_ready_together_are_asked_together() -> None:
    check(
        fuse_maps,
        workflow(
            step("clean", "python", "title"),
            step("short", "python", "clean.value"),
            step("label", "llm", "clean.value"),
            step("parsed", "python", "label.output"),
            step("both", "python", "parsed.value", "short.value"),
            outputs=("both.value",),
        ),
        """
        input: title, genre, text
        └─ clean: python, reads title
           └─ short: python, reads clean.value
           └─ label: llm small, reads clean.value
              └─ parsed: python, reads label.output
                 └─ both: python, reads parsed.value short.value
        together: clean, short
        together: parsed, both
        results: both.value
        """,
    )


def test_rules_that_never_end_are_told() -> None:
    def flip(graph: QueryGraph, _: Statistics) -> QueryGraph:
        return QueryGraph(graph.operators, graph.inputs, graph.outputs[::-1])

    graph = workflow(step("a", "llm", "title"), outputs=("a.output", "title"))
    with pytest.raises(RuntimeError, match="after 20 rounds the rules flip still change it"):
        optimise(graph, STATISTICS, [flip])


def test_the_trace_tells_what_each_rule_did_and_spared() -> None:
    graph = workflow(
        step("unused", "llm", "title"),
        step("a", "llm", "genre", blocks=("Genre: ⟨0⟩",)),
        step("b", "llm", "genre", blocks=("Genre: ⟨0⟩",)),
        step("keep", "filter", "a.output"),
        step("c", "llm", "text"),
        outputs=("a.output", "b.output", "c.output"),
    )
    found = optimise(graph, STATISTICS)
    assert [(each.rule, *each.changes) for each in found.trace] == [
        ("drop_unused", "unused is dropped: no result depends on it"),
        ("merge_identical", "b asks the same as a, which answers for both"),
        ("filters_first", "c awaits keep"),
        (
            "collapse_rows",
            "a is asked once for rows that ask it the same",
            "c is asked once for rows that ask it the same",
        ),
    ]
    # 1,000 rows each; a filter keeps half; 10 genres, and of 200 texts nearly all.
    calls = [round(each.saved_calls) for each in found.trace]
    assert calls[:3] == [1000, 1000, 500]
    assert calls[3] == 990 + 500 - round(200 * (1 - 0.5**5))
    assert found.saved_calls == pytest.approx(4000 - 10 - 200 * (1 - 0.5**5))
