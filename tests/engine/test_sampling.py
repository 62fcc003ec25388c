"""Draws depend on their own row alone, and the filters are those of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from batchpipe.engine import sampling as module
from batchpipe.engine.sampling import (
    NO_TOKEN,
    Draw,
    sample,
    stream_key,
    token_weights,
    uniforms,
)
from batchpipe.planner.request import Sampling

VOCAB = 48
DRAWN = Sampling(temperature=1.0)


def processors(sampling: Sampling) -> list[object]:
    """What `generate` builds for these parameters, in its order."""
    chain: list[object] = []
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature != 1:
        chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chain.append(MinPLogitsWarper(sampling.min_p))
    return chain


def reference_probabilities(row: Tensor, draw: Draw) -> Tensor:  # [vocab] -> [vocab]
    scores = row[None].float()
    history = torch.from_numpy(draw.history)[None].long()
    for processor in processors(draw.sampling):
        scores = processor(history, scores)  # type: ignore[operator]
    return scores.softmax(dim=-1)[0]


def our_probabilities(logits: Tensor, draws: Sequence[Draw]) -> Tensor:  # [rows, vocab]
    scores = logits.to(torch.float32, copy=True)
    module._penalise_repetition(scores, draws)
    weights = token_weights(scores, [draw.sampling for draw in draws]).double()
    return weights / weights.sum(dim=-1, keepdim=True)


def on_a_border(row: Tensor, draw: Draw) -> bool:
    """Whether float32 and float64 may disagree on which side of a threshold a token lies."""
    off = replace(draw.sampling, top_p=1.0, min_p=0.0)
    before = reference_probabilities(row, replace(draw, sampling=off)).double()
    cumulative = before.sort().values.cumsum(0)
    near_top_p = (cumulative - (1 - draw.sampling.top_p)).abs().min() < 1e-5
    near_min_p = (before / before.max() - draw.sampling.min_p).abs().min() < 1e-5
    return bool((draw.sampling.top_p < 1 and near_top_p) or (draw.sampling.min_p and near_min_p))


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 20, VOCAB, 1000]),
    top_p=st.sampled_from([1.0, 0.999, 0.95, 0.8, 0.5, 0.1, 0.01]),
    min_p=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
)
rows_of_samplings = st.lists(samplings, min_size=1, max_size=8)


@settings(max_examples=150)
@given(
    samplings=rows_of_samplings,
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    rounded=st.booleans(),
    forbidden=st.booleans(),
)
def test_filters_keep_what_transformers_keeps(
    samplings: list[Sampling], seed: int, dtype: torch.dtype, rounded: bool, forbidden: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(samplings), VOCAB, generator=generator) * 3
    if rounded:  # many equal scores
        logits = logits.round()
    if forbidden:
        logits[:, ::3] = float("-inf")
    logits = logits.to(dtype)
    histories = torch.randint(0, VOCAB + 4, (len(samplings), 9), generator=generator).int().numpy()
    draws = [Draw(s, 0, 0, h) for s, h in zip(samplings, histories, strict=True)]
    ours = our_probabilities(logits, draws)
    for row, draw in enumerate(draws):
        if on_a_border(logits[row], draw):
            continue
        theirs = reference_probabilities(logits[row], draw)
        mine = ours[row].float()
        if len(logits[row].unique()) < VOCAB:
            # Which of equal scores stay at the border of top-p, torch's unstable sort leaves open.
            mine, theirs = mine.sort().values, theirs.sort().values
        assert not mine[theirs == 0].any(), draw.sampling
        assert mine[theirs > 1e-14].all(), draw.sampling
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("scores", "sampling", "kept"),
    [
        ([1.0, 3.0, 2.0, 2.0, 0.0], Sampling(temperature=1, top_k=2), {1, 2, 3}),
        ([0.0] * 10, Sampling(temperature=1, top_p=0.9), set(range(1, 10))),
        ([0.0] * 10, Sampling(temperature=1, top_p=0.5), {5, 6, 7, 8, 9}),
        ([0.0, 5.0, 1.0], Sampling(temperature=1, top_p=0.0), {1}),
        ([0.0, 5.0, 1.0], Sampling(temperature=1, min_p=1.0), {1}),
        ([2.0, 2.0, 1.0], Sampling(temperature=1, min_p=1.0), {0, 1}),
    ],
)
def test_ties_are_kept_as_transformers_keeps_them(
    scores: list[float], sampling: Sampling, kept: set[int]
) -> None:
    draw = Draw(sampling, 0, 0, np.zeros(0, dtype=np.int32))
    row = torch.tensor(scores)
    theirs = reference_probabilities(row, draw)
    assert set(theirs.nonzero()[:, 0].tolist()) == kept
    assert set(our_probabilities(row[None], [draw])[0].nonzero()[:, 0].tolist()) == kept


def test_greedy_rows_take_the_first_largest_logit() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]], dtype=torch.bfloat16)
    assert sample(logits).tolist() == [1, 0]
    greedy = Draw(Sampling(), 1, 0)
    assert sample(logits, [greedy, greedy]).tolist() == [1, 0]
    assert sample(logits[:0]).tolist() == []


def test_greedy_rows_are_penalised_too() -> None:
    logits = torch.tensor([[3.0, 2.9, -5.0], [-1.0, -1.1, -5.0]])
    history = np.array([0, 0, 7], dtype=np.int32)  # 7 is beyond the output layer
    draw = Draw(Sampling(repetition_penalty=1.2), 1, 0, history)
    before = logits.clone()
    assert sample(logits, [draw, draw]).tolist() == [1, 1]
    assert torch.equal(logits, before)


def mixed_batch(rows: int, seed: int) -> tuple[Tensor, list[Draw]]:
    numbers = np.random.default_rng(seed)
    logits = torch.from_numpy(numbers.normal(size=(rows, VOCAB)) * 2).float()
    draws = [
        Draw(
            Sampling(
                temperature=float(numbers.choice([0.0, 0.7, 1.0, 1.4])),
                top_p=float(numbers.choice([1.0, 0.9, 0.5])),
                top_k=int(numbers.choice([0, 3, 20])),
                min_p=float(numbers.choice([0.0, 0.05])),
                repetition_penalty=float(numbers.choice([1.0, 1.2])),
            ),
            stream_key(seed, f"row-{row}", 0),
            int(numbers.integers(100)),
            numbers.integers(0, VOCAB, size=row % 5 + 1).astype(np.int32),
        )
        for row in range(rows)
    ]
    return logits, draws


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 24), order=st.randoms())
def test_a_row_draws_the_same_token_in_any_company(seed: int, rows: int, order) -> None:
    logits, draws = mixed_batch(rows, seed)
    alone = [sample(logits[r : r + 1], draws[r : r + 1]).item() for r in range(rows)]
    assert sample(logits, draws).tolist() == alone
    chosen = list(range(rows))
    order.shuffle(chosen)
    chosen = chosen[: max(1, rows // 2)]
    part = sample(logits[chosen], [draws[r] for r in chosen])
    assert part.tolist() == [alone[r] for r in chosen]


def test_slices_of_a_large_batch_draw_what_the_whole_draws(monkeypatch) -> None:
    logits, draws = mixed_batch(20, seed=3)
    whole = sample(logits, draws).tolist()
    monkeypatch.setattr(module, "SLICE_LOGITS", 3 * VOCAB)
    assert sample(logits, draws).tolist() == whole


@pytest.mark.parametrize(
    "sampling", [DRAWN, Sampling(temperature=0.8, top_k=6, top_p=0.95, min_p=0.02)]
)
def test_draws_over_steps_follow_the_distribution(sampling: Sampling) -> None:
    steps = 20_000
    row = torch.from_numpy(np.random.default_rng(5).normal(size=12)).float()
    key = stream_key(0, "row-7", 0)
    draws = [Draw(sampling, key, step) for step in range(steps)]
    counts = torch.bincount(sample(row.expand(steps, -1), draws), minlength=12).double()
    expected = our_probabilities(row[None], draws[:1])[0] * steps
    assert counts[expected == 0].sum() == 0
    live = expected > 0
    chi_square = ((counts - expected)[live] ** 2 / expected[live]).sum().item()
    assert chi_square < 40  # 11 degrees of freedom: more with a chance of 4e-5


def test_neighbouring_keys_and_steps_draw_independently() -> None:
    keys, steps = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.uint64))
    numbers = uniforms(keys.ravel(), steps.ravel()).reshape(200, 200)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert len(np.unique(numbers)) == numbers.size
    assert abs(numbers.mean() - 0.5) < 0.01
    for neighbour in (np.roll(numbers, 1, axis=0), np.roll(numbers, 1, axis=1)):
        assert abs(np.corrcoef(numbers.ravel(), neighbour.ravel())[0, 1]) < 0.025


def test_random_numbers_never_change_between_versions() -> None:
    assert stream_key(0, "row-0", 0) == 10299975009458262875
    published = 0xE220A8397B1DCDAF  # splitmix64's first output for state 0
    assert module._splitmix64(np.zeros(1, np.uint64))[0] == published
    zero_after_key = uniforms(np.array([published], np.uint64), np.zeros(1, np.uint64))[0]
    assert zero_after_key == (published >> 11) / 2**53


def test_keys_differ_by_seed_request_and_sample() -> None:
    names = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, None, 0), (0, "null", 0)]
    keys = [stream_key(*name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(0 <= key < 2**64 for key in keys)
    assert stream_key(2**80, "\ud800", 3) == stream_key(2**80, "\ud800", 3)


@pytest.mark.parametrize("others", [Sampling(), DRAWN, Sampling(temperature=1, top_k=2, top_p=0.9)])
def test_a_row_without_a_distribution_gets_no_token_and_harms_no_other(others: Sampling) -> None:
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, nan, 5.0], [-inf] * 3, [0.0, 1.0, 2.0], [nan] * 3])
    draws = [Draw(others, stream_key(0, str(row), 0), 0) for row in range(4)]
    tokens = sample(logits, draws).tolist()
    assert [tokens[0], tokens[1], tokens[3]] == [NO_TOKEN] * 3
    assert tokens[2] == sample(logits[2:3], draws[2:3]).item() >= 0
    assert sample(logits).tolist() == [NO_TOKEN, NO_TOKEN, 2, NO_TOKEN]


@given(
    scale=st.sampled_from([1e-30, 1.0, 1e30, 3e38]),
    temperature=st.sampled_from([1e-45, 1e-6, 1e-5, 1e-3, 1.0, 1e6]),
    top_p=st.sampled_from([1.0, 0.9]),
)
@example(scale=3e38, temperature=1e-5, top_p=1.0)
def test_extreme_scores_and_temperatures_still_draw_a_token(
    scale: float, temperature: float, top_p: float
) -> None:
    logits = torch.tensor([[-1.0, 0.5, 1.0, float("-inf")]]) * scale
    draw = Draw(Sampling(temperature=temperature, top_p=top_p), 9, 0)
    assert sample(logits, [draw]).item() in {0, 1, 2}


def test_infinite_logits_are_certain() -> None:
    logits = torch.tensor([[0.0, float("inf"), 3.0]])
    assert sample(logits, [Draw(DRAWN, 1, 0)]).item() == 1


def test_a_scan_cannot_overflow_or_hit_a_filtered_token() -> None:
    vocab = 300_000
    weights = token_weights(torch.zeros(1, vocab), [DRAWN])
    assert int(weights.max()) * vocab < 2**62
    logits = torch.full((64, vocab), float("-inf"))
    logits[:, 7] = logits[:, -5] = 0.0
    draws = [Draw(DRAWN, 3, step) for step in range(64)]
    assert set(sample(logits, draws).tolist()) == {7, vocab - 5}


@given(temperature=st.floats(0.1, 2), seed=st.integers(0, 2**31))
def test_float16_logits_draw_as_their_float32_copies(temperature: float, seed: int) -> None:
    assume(temperature > 0)
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(seed)).half()
    draws = [Draw(Sampling(temperature=temperature), seed + row, row) for row in range(4)]
    assert torch.equal(sample(logits, draws), sample(logits.float(), draws))
