"""An operator's prompt as pieces of text and columns: what two prompts begin with alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchpipe.planner.query.graph import Operator, QueryGraph

ANSWER = "output"  # the field that holds what a model said, as it said it
ASSISTANT = "assistant"  # the role of a message that a model wrote

# "⟨0⟩" alone, or "⟨=...⟩" with any number of them within. A "⟩" of the author's may end the latter
# early: only estimates look at where it ends.
_NUMBER = re.compile(r"⟨(\d+)⟩")
_PIECE = re.compile(r"⟨(?:\d+|=[^⟨⟩]*(?:⟨(?:\d+|<)⟩[^⟨⟩]*)*)⟩")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a block: the author's text, or what columns make of a row."""

    text: str
    columns: tuple[str, ...] = ()  # under the names of the operators that are asked


def named_blocks(graph: QueryGraph, operator: Operator) -> tuple[str, ...]:
    """The prompt's blocks as they are asked, columns by name: equal ones make equal text."""

    def name_of(match: re.Match[str]) -> str:
        return f"⟨{graph.column(operator.reads[int(match[1])])}⟩"

    return tuple(_NUMBER.sub(name_of, block) for block in operator.prompt)


def columns_of(graph: QueryGraph, operator: Operator, block: str) -> tuple[str, ...]:
    """The columns that a block reads, each once, in order."""
    read = (graph.column(operator.reads[int(number)]) for number in _NUMBER.findall(block))
    return tuple(dict.fromkeys(read))


def pieces(graph: QueryGraph, operator: Operator, block: str) -> list[Piece]:
    """The block cut where its text begins or ends to depend on the row."""
    found: list[Piece] = []
    at = 0
    for match in _PIECE.finditer(block):
        if match.start() > at:
            found.append(Piece(block[at : match.start()]))
        found.append(Piece(match[0], columns_of(graph, operator, match[0])))
        at = match.end()
    if at < len(block):
        found.append(Piece(block[at:]))
    return found


def begins_with_answer(graph: QueryGraph, later: Operator, earlier: Operator) -> bool:
    """True where every prompt of the one begins with the other's prompt and answer."""
    blocks, head = named_blocks(graph, later), named_blocks(graph, earlier)
    answer = f"⟨{earlier.name}.{ANSWER}⟩"
    if later.roles or earlier.roles:
        roles = (*earlier.roles, ASSISTANT)
        return (
            bool(earlier.roles) and _begins(later.roles, roles) and _begins(blocks, (*head, answer))
        )
    return "".join(blocks).startswith("".join(head) + answer)


def _begins(whole: tuple[str, ...], head: tuple[str, ...]) -> bool:
    return whole[: len(head)] == head
