"""How many calls and tokens each operator of a workflow needs, by its statistics.

Prompts that begin alike share what they begin with, as the engine's prefix tree has it, so text is
computed as often as there are different values of the columns up to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchpipe.planner.query.counts import Counts
from batchpipe.planner.query.graph import Operator, QueryGraph
from batchpipe.planner.query.prompt import ANSWER, Piece, pieces
from batchpipe.planner.query.statistics import Statistics

VALUE_TOKENS = 32.0  # of a value of which nothing is known
OUTPUT_TOKENS = 128.0  # of a model's answer
CHARACTERS_OF_A_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one operator does, or several together. Expectations, so no whole numbers."""

    rows: float = 0.0  # for which it is asked
    calls: float = 0.0  # what equal rows ask counts once where the operator collapses
    prompt_tokens: float = 0.0  # of all calls, each as if alone
    computed_tokens: float = 0.0  # of these, what no other call has computed
    output_tokens: float = 0.0

    @property
    def tokens(self) -> float:
        """Tokens that go through a model."""
        return self.computed_tokens + self.output_tokens


def estimated(graph: QueryGraph, statistics: Statistics) -> dict[str, Estimate]:
    """What each operator does, by name."""
    counts = Counts(graph, statistics)
    return {each.name: _estimate(counts, each) for each in graph.operators}


def together(graph: QueryGraph, estimates: dict[str, Estimate]) -> Estimate:
    """What all operators that ask a model, a database or a host do together."""
    costly = [estimates[each.name] for each in graph.operators if each.is_costly]
    return Estimate(
        rows=sum(each.rows for each in costly),
        calls=sum(each.calls for each in costly),
        prompt_tokens=sum(each.prompt_tokens for each in costly),
        computed_tokens=sum(each.computed_tokens for each in costly),
        output_tokens=sum(each.output_tokens for each in costly),
    )


def _estimate(counts: Counts, operator: Operator) -> Estimate:
    rows = counts.asked(operator)
    asking = rows
    if operator.collapses:
        asking = min(rows, counts.asked_differently(operator, operator.reads))
    calls = asking * counts.statistics.prompts_per_row.get(operator.name, 1.0)
    if not operator.models:
        return Estimate(rows, calls)
    prompt_tokens = computed_tokens = 0.0
    seen: set[str] = set()
    already = _already_computed(counts, operator)
    for piece, tokens in _sized_pieces(counts, operator):
        seen.update(piece.columns)
        different = counts.asked_differently(operator, seen) if seen else min(1.0, asking)
        prompt_tokens += tokens
        known = min(tokens, already)
        already -= known
        computed_tokens += (tokens - known) * min(asking, different)
    # The last token is computed for every answer, however much of the prompt is known.
    computed_tokens = max(computed_tokens, asking)
    return Estimate(
        rows=rows,
        calls=calls,
        prompt_tokens=prompt_tokens * calls,
        computed_tokens=min(computed_tokens, prompt_tokens * calls),
        output_tokens=_output_tokens(counts.statistics, operator) * calls,
    )


def _already_computed(counts: Counts, operator: Operator) -> float:
    """Tokens of each prompt that another operator's prompt and answer leave in memory."""
    if operator.extends is None:
        return 0.0
    extended = counts.graph.by_name[operator.extends]
    prompt = sum(tokens for _, tokens in _sized_pieces(counts, extended))
    return prompt + _output_tokens(counts.statistics, extended)


def _sized_pieces(counts: Counts, operator: Operator) -> Iterator[tuple[Piece, float]]:
    """The prompt's pieces as they are asked, each with its mean tokens."""
    graph, statistics = counts.graph, counts.statistics
    static = statistics.static_tokens.get(operator.name)
    order = operator.block_order or range(len(operator.blocks))
    for at in order:
        found = pieces(graph, operator, operator.blocks[at])
        characters = sum(len(piece.text) for piece in found if not piece.columns)
        block_tokens = static[at] if static else characters / CHARACTERS_OF_A_TOKEN
        for piece in found:
            if piece.columns:
                yield piece, sum(value_tokens(graph, statistics, each) for each in piece.columns)
            else:
                yield piece, block_tokens * len(piece.text) / characters


def value_tokens(graph: QueryGraph, statistics: Statistics, column: str) -> float:
    """Mean tokens of a column's value as text."""
    known = statistics.column_tokens.get(column)
    if known is not None:
        return known
    maker = graph.maker(column)
    if maker is None or not maker.models or column.partition(".")[2] != ANSWER:
        return VALUE_TOKENS
    return _output_tokens(statistics, maker)


def _output_tokens(statistics: Statistics, operator: Operator) -> float:
    return statistics.output_tokens.get(operator.name, OUTPUT_TOKENS)
