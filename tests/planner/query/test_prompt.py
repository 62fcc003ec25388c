"""Prompts cut into what is the author's and what is the row's."""

from __future__ import annotations

from toy_workflows import step, workflow

from batchpipe.planner.query.graph import Operator
from batchpipe.planner.query.prompt import Piece, begins_with_answer, named_blocks, pieces

FIRST = step("first", "llm", "title", blocks=("Is ⟨0⟩ ⟨<⟩ ⟨=Filter(Name('⟨0⟩'), 'lower')⟩?",))


def going_on(*blocks: str) -> Operator:
    return step("next", "llm", "first.output", "title", blocks=blocks)


def test_a_block_is_cut_where_a_column_stands() -> None:
    graph = workflow(FIRST)
    assert pieces(graph, FIRST, FIRST.blocks[0]) == [
        Piece("Is "),
        Piece("⟨0⟩", ("title",)),
        Piece(" ⟨<⟩ "),
        Piece("⟨=Filter(Name('⟨0⟩'), 'lower')⟩", ("title",)),
        Piece("?"),
    ]


def test_expressions_side_by_side_are_pieces_of_their_own() -> None:
    asked = step(
        "ask", "llm", "title", "genre", blocks=("⟨=a(⟨0⟩)⟩ and ⟨1⟩, ⟨=b⟩ or ⟨=c(⟨1⟩, ⟨0⟩)⟩",)
    )
    found = pieces(workflow(asked), asked, asked.blocks[0])
    assert [piece.text for piece in found] == [
        *("⟨=a(⟨0⟩)⟩", " and ", "⟨1⟩", ", ", "⟨=b⟩", " or ", "⟨=c(⟨1⟩, ⟨0⟩)⟩")
    ]
    assert found[-1].columns == ("genre", "title")


def test_numbers_mean_columns_whoever_is_asked_for_them() -> None:
    twin = step("twin", "llm", "title")
    asked = step("ask", "llm", "twin.output", blocks=("⟨0⟩",))
    graph = workflow(FIRST, twin, asked).with_operators([FIRST, asked], {"twin": "first"})
    assert named_blocks(graph, asked) == ("⟨first.output⟩",)


def test_a_prompt_begins_with_anothers_whatever_its_blocks_and_numbers() -> None:
    head = "Is ⟨1⟩ ⟨<⟩ ⟨=Filter(Name('⟨1⟩'), 'lower')⟩?"
    for blocks, begins in [
        ((head + "⟨0⟩ Why?",), True),
        ((head, "⟨0⟩"), True),
        ((head, " ⟨0⟩"), False),
        ((head, "Why?"), False),
        ((head.replace("1", "0"), "⟨0⟩"), False),
    ]:
        later = going_on(*blocks)
        assert begins_with_answer(workflow(FIRST, later), later, FIRST) == begins
