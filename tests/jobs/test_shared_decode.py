"""Shared and private decodes compute the same: only how often a prefix is read differs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs" / "bench"))

import decode_step
from decode_step import Crowd, both, contexts, measured
from models import Shape
from shared_decode import verdict

CPU = torch.device("cpu")
SHAPE = Shape("llama", 384, 64, 96, 2, heads=4, kv_heads=2, head_dim=16)
CROWD = Crowd(groups=3, degree=4, prefix_tokens=130)


def test_prefix_is_read_once_for_its_group_and_in_private_by_every_row() -> None:
    shared, private = both(CROWD, SHAPE, torch.float32, CPU)
    reads = [each.read for each in shared.layout.shared]
    assert [(read.query_start, read.query_end) for read in reads] == [(0, 4), (4, 8), (8, 12)]
    assert {len(read.slots) for read in reads} == {CROWD.prefix_tokens}
    assert private.layout.shared == ()
    own = torch.cat(contexts(private.layout))
    assert len(own.unique()) == len(own)


def test_rows_see_the_same_keys_and_values_both_ways() -> None:
    shared, private = both(CROWD, SHAPE, torch.float32, CPU)
    assert len(shared.keys) == len(private.keys) == SHAPE.layers
    assert torch.equal(shared.layout.positions, private.layout.positions)
    caches = [*zip(shared.keys, private.keys, strict=True)]
    caches += zip(shared.values, private.values, strict=True)
    rows = zip(contexts(shared.layout), contexts(private.layout), strict=True)
    for position, (read, own) in zip(shared.layout.positions.tolist(), rows, strict=True):
        assert len(read) == len(own) == position + 1
        for one, other in caches:
            assert torch.equal(one[read], other[own])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_keys_are_told_from_rounding(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_step, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(decode_step, "LEAST_ROUNDS", 1)
    found = measured(CROWD, SHAPE, dtype, CPU)
    assert found["ratio"] > 0
    assert found["layers"] == SHAPE.layers

    steps = both(CROWD, SHAPE, dtype, CPU)
    steps[1].keys[-1].normal_()
    monkeypatch.setattr(decode_step, "both", lambda *given: steps)
    with pytest.raises(AssertionError, match="is rounding"):
        measured(CROWD, SHAPE, dtype, CPU)


def test_verdict_is_that_of_the_worst_way() -> None:
    rows = [
        {"path": path, "dtype": "float32", "degree": degree, "ratio": ratio}
        for path, degree, ratio in (("native", 16, 3.0), ("torch", 16, 1.5), ("torch", 1, 1.0))
    ]
    assert verdict(rows).startswith("degree 16: 1.50 times as fast at least (torch, float32)")
    assert "no rows of degree 16" in verdict(rows[2:])
