"""Cutting a step into pieces loses no token and changes no order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.engine.pieces import split
from batchpipe.planner.schedule.segment import Chunk, Segment, Sequence


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40), st.booleans())),
    st.integers(1, 60) | st.none(),
)
def test_splitting_keeps_every_token_in_its_place(
    spans: list[tuple[int, int, bool]], most: int | None
) -> None:
    chunks = []
    for index, (start, length, draws) in enumerate(spans):
        tail = Segment(-1, 0, index, np.arange(start + length, dtype=np.int32))
        end = start + length
        sequence = Sequence(index, 0, tail) if draws else None
        scoring = range(start + length // 3, end - draws - length // 4)
        chunks.append(Chunk(tail, start, end, sequence, scoring=scoring))
    pieces, rest = [], chunks
    while rest:
        piece, rest = split(rest, most)
        pieces.append(piece)
    sizes = [sum(chunk.end - chunk.start for chunk in piece) for piece in pieces]
    assert most is None or all(size == most for size in sizes[:-1])
    assert most is None or all(0 < size <= most for size in sizes)
    assert _each_token([chunk for piece in pieces for chunk in piece]) == _each_token(chunks)


def _each_token(chunks: list[Chunk]) -> list[tuple[int, int, bool, bool]]:
    """Segment, place in it, and whether a token is drawn or scored right behind."""
    assert all(chunk.start < chunk.end for chunk in chunks)
    assert all(set(chunk.scoring) <= set(range(chunk.start, chunk.end)) for chunk in chunks)
    return [
        (
            chunk.segment.rank,
            at,
            chunk.sequence is not None and at == chunk.end - 1,
            at in chunk.scoring,
        )
        for chunk in chunks
        for at in range(chunk.start, chunk.end)
    ]
