"""What two runs did is added field by field; only memory is held one after the other."""

from __future__ import annotations

from dataclasses import astuple, fields

from batchpipe.planner.schedule.counts import Counts


def test_all_counts_add_up_and_of_peaks_the_larger_counts() -> None:
    one = Counts(*range(1, len(fields(Counts)) + 1))
    other = Counts(*range(100, 100 + len(fields(Counts))))
    both = one + other
    assert both.peak_kv_tokens == max(one.peak_kv_tokens, other.peak_kv_tokens)
    both.peak_kv_tokens = one.peak_kv_tokens + other.peak_kv_tokens
    added = tuple(map(sum, zip(astuple(one), astuple(other), strict=True)))
    assert astuple(both) == added
    assert one == Counts(*range(1, len(fields(Counts)) + 1)), "neither has changed"
    assert sum([one, other], Counts()).steps == one.steps + other.steps
