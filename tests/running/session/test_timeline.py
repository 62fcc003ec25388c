"""A timeline stays small, and forgets neither the end nor the highest KV memory."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from batchpipe.running.session.timeline import Point, Timeline

steps = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3)),
    max_size=200,
)


def points_of(gained: list[tuple[int, int, int, int]]) -> list[Point]:
    """The points of steps that each took so many seconds, tokens, KV tokens and rows."""
    seconds = accumulate(each[0] for each in gained)
    tokens = accumulate(each[1] for each in gained)
    rows = accumulate(each[3] for each in gained)
    return [
        Point(float(second), number, token, 2 * token, each[2], row)
        for number, (second, token, row, each) in enumerate(
            zip(seconds, tokens, rows, gained, strict=True), 1
        )
    ]


@given(steps, st.integers(2, 12))
def test_a_timeline_keeps_few_points_and_every_total(
    gained: list[tuple[int, int, int, int]], most: int
) -> None:
    given_points, timeline = points_of(gained), Timeline(most)
    for point in given_points:
        timeline.step(point)
    kept = timeline.points()
    assert len(kept) <= most
    by_step = {point.steps: point for point in given_points}
    before = 0
    for point in kept:
        given_point = by_step[point.steps]
        assert (point.seconds, point.prefill_tokens, point.rows) == (
            given_point.seconds,
            given_point.prefill_tokens,
            given_point.rows,
        )
        between = range(before + 1, point.steps + 1)
        assert point.kv_tokens == max(by_step[step].kv_tokens for step in between)
        before = point.steps
    assert before == len(given_points)


def test_few_steps_are_all_kept() -> None:
    timeline = Timeline()
    given_points = points_of([(1, 2, 3, 1)] * 500)
    for point in given_points:
        timeline.step(point)
    assert timeline.points() == given_points
