"""What the plots draw is what was counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.report.icicle import TALLEST, icicle
from batchpipe.report.lengths import MOST_BINS, Lengths
from batchpipe.report.promises import promises
from batchpipe.report.scale import axis
from batchpipe.report.time_plots import timelines
from batchpipe.running.session.record import Session, Shared
from batchpipe.running.session.timeline import Point

lists = st.lists(st.lists(st.integers(0, 3000), max_size=30), max_size=5)


@given(lists)
def test_every_length_is_in_its_bin(tables: list[list[int]]) -> None:
    lengths = Lengths()
    for table in tables:
        lengths.add(np.array(table, dtype=np.int64))
    every = sorted(length for table in tables for length in table)
    bins = lengths.bins()
    assert len(bins) <= MOST_BINS
    for each in bins:
        assert each.rows == sum(each.low <= length < each.high for length in every)
    assert sum(each.rows for each in bins) == len(every)
    if every:
        told = lengths.quantiles()
        assert (told["shortest"], told["longest"]) == (every[0], every[-1])
        assert told["median"] == every[math.ceil(len(every) / 2) - 1]


@given(st.floats(0, 1e12), st.integers(1, 6))
def test_an_axis_holds_its_values_and_ends_at_a_tick(most: float, ticks: int) -> None:
    made = axis(most, ticks=ticks)
    assert made.most >= most * (1 - 1e-6)
    assert made.ticks[0] == 0
    assert made.ticks[-1] == pytest.approx(made.most)
    assert len(made.ticks) <= ticks + 1


def session(
    number: int, points: list[tuple[float, int, int, int]], *, done: bool = True
) -> Session:
    return Session(
        number,
        "now",
        is_done=done,
        facts={"kv_tokens": 100, "prompts": 4, "expected_seconds": 2.0, "computed_tokens": 50},
        points=tuple(Point(s, n, t, 3 * t, kv, t) for s, n, t, kv in points),
    )


FIRST = session(1, [(0.5, 1, 10, 20), (1.0, 2, 30, 64), (3.0, 3, 40, 16)], done=False)
SECOND = session(2, [(1.0, 1, 5, 30), (2.0, 2, 8, 8)])


def test_a_timeline_has_every_token_of_every_session() -> None:
    drawn = timelines([FIRST, SECOND])
    assert drawn is not None
    assert drawn.x.most == 5.0
    assert drawn.starts == (3.0,)
    widths = np.diff(drawn.edges)
    per_step, per_second, kv, rows = drawn.plots
    prefill, decode = (np.array(layer.values) for layer in per_second.layers)
    assert (prefill * widths).sum() == pytest.approx(48)
    assert (decode * widths).sum() == pytest.approx(3 * 48)
    assert max(kv.layers[0].values) == 64
    assert kv.limit == 100
    assert rows.layers[0].values[-1] == 48
    assert len(drawn.told[0]) == 1 + sum(len(plot.layers) for plot in drawn.plots)
    assert per_step.name == "Tokens of a step"


def test_a_server_has_no_steps_and_no_kv_memory_to_draw() -> None:
    quiet = Session(1, "now", points=(Point(1.0, 0, 10, 5, 0, 2),))
    drawn = timelines([quiet])
    assert drawn is not None
    assert [plot.name for plot in drawn.plots] == ["Throughput", "Rows finished"]
    assert timelines([Session(1, "now")]) is None


def test_a_session_that_took_no_time_can_be_drawn() -> None:
    assert timelines([Session(1, "now", points=(Point(0.0, 1, 10, 5, 16, 2),))]) is not None


def test_only_sessions_that_ended_as_planned_are_held_to_their_promise() -> None:
    seconds, computed = promises([FIRST, SECOND])
    assert (seconds.predicted, seconds.measured, seconds.error) == (2.0, 2.0, 0.0)
    assert (computed.predicted, computed.measured) == (50, 8)
    assert promises([FIRST]) == ()


def test_blocks_of_the_icicle_lie_below_what_they_continue() -> None:
    shared = (Shared(-1, 0, 40, 0, 4, "all"), Shared(0, 40, 60, 1, 3, "two"))
    told = Session(1, "now", facts={"prompts": 4}, shared=shared, mean_tokens=(50, 80, 80, 50))
    drawn = icicle([Session(2, "later"), told])
    assert drawn is not None
    above, below = drawn.boxes
    assert (above.left, above.width, above.top) == ("0.000%", "100.000%", 0)
    assert (below.left, below.width, below.top) == ("25.000%", "50.000%", above.height)
    assert below.top + below.height <= TALLEST
    assert (above.saved_tokens, below.saved_tokens) == (120, 20)
    assert drawn.told[0] is above
