"""The histogram of densities: no request and no second is lost, and 1 is always a border."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from golden import check_golden
from hypothesis import given
from hypothesis import strategies as st

from batchpipe.planner.explain import (
    MOST_BINS,
    DensityBin,
    density_bins,
    explain_density,
    request_compute,
)
from batchpipe.planner.plan import Plan
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling

asked_rows = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(1, 5000)),
    min_size=1,
    max_size=12,
)


def plan_of(asked: list[tuple[list[int], int]]) -> Plan:
    """Every answer is as long as it is said to be."""
    samplings = [Sampling(max_tokens=tokens, ignore_eos=True) for _, tokens in asked]
    return make_plan(Prompts.pack([ids for ids, _ in asked]), samplings)


@given(asked_rows)
def test_every_request_is_in_one_bin_and_their_times_are_the_whole(
    asked: list[tuple[list[int], int]],
) -> None:
    plan = plan_of(asked)
    bins = density_bins(plan.tree, plan.cost(None))
    assert sum(each.requests for each in bins) == len(plan.prompts)
    assert sum(each.time_share for each in bins) == pytest.approx(1)
    assert len(bins) <= MOST_BINS
    for below, above in pairwise(bins):
        assert below.high == above.low
    assert all(each.low >= 1 or each.high <= 1 for each in bins)


@given(asked_rows)
def test_a_shared_node_is_computed_on_everybodys_account(
    asked: list[tuple[list[int], int]],
) -> None:
    plan = plan_of(asked)
    cost = plan.cost(None)
    compute = request_compute(plan.tree, cost)
    assert compute.sum() == pytest.approx(cost.compute_seconds)
    assert (compute >= cost.compute).all()


def test_equal_requests_pay_alike_for_what_they_share() -> None:
    plan = plan_of([([1, 2, 3, 4], 5), ([1, 2, 3, 5], 5), ([9, 9, 9, 9], 5)])
    compute = request_compute(plan.tree, plan.cost(None))
    np.testing.assert_allclose(compute, [1 + 1.5 + 5, 1 + 1.5 + 5, 4 + 5])


def test_no_requests_have_no_density() -> None:
    plan = plan_of([])
    assert density_bins(plan.tree, plan.cost(None)) == ()


def test_the_histogram_says_which_side_is_compute_bound() -> None:
    bins = [
        DensityBin(0.25, 0.5, 120, 0.301),
        DensityBin(0.5, 1.0, 0, 0.0),
        DensityBin(1.0, 2.0, 1, 0.001),
        DensityBin(2.0, 4.0, 12345, 0.698),
    ]
    check_golden("density", explain_density(bins))
