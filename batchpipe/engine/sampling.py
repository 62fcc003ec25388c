"""The next token of every row, drawn so that neither batch nor order can change it.

Knows logits and sampling parameters; knows nothing of sequences, models or text.

Three choices make a draw a function of its own row alone:

* the random number comes from ``(key, step)`` by a counter-based hash, not from a generator;
* probabilities become integers of up to 62 bits, so that every sum is exact: a parallel scan on a
  GPU gives the same cumulative distribution in any shape, and no filtered token can be hit through
  a rounding error;
* the inverse of that distribution is taken in vocabulary order, which no sort can disturb.

The filters are those of transformers' ``LogitsProcessor`` classes, in the order of ``generate``:
repetition penalty, temperature, top-k, top-p, min-p. Nothing here waits for the device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchpipe.planner.request import Sampling, TokenIds

# The token of a row that has no distribution: its logits hold NaN, or all of them are -inf.
NO_TOKEN = -1

# vLLM's bound. Below it the quotient leaves float32, and the draw is the argmax in any case.
GREEDY_BELOW_TEMPERATURE = 1e-5

# Rows are drawn in slices of so many logits: the float64, int64 and sort buffers of one slice then
# stay below about 0.7 GB, however many rows a step has.
SLICE_LOGITS = 1 << 24

# Cumulative probabilities this close to 1 - top_p count as equal to it: 1 - 0.9 is not 0.1 in
# binary, and ten equal tokens under top_p 0.9 must leave nine.
TOP_P_ROUNDING = 1e-9

_NEG_INF = float("-inf")


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What one row's next token depends on, besides its logits."""

    sampling: Sampling
    key: int  # from `stream_key`
    step: int  # tokens generated before this one
    history: TokenIds | None = None  # prompt and generated tokens; read if repetition_penalty != 1

    @property
    def greedy(self) -> bool:
        """True where the row takes its largest score."""
        return self.sampling.temperature < GREEDY_BELOW_TEMPERATURE


def stream_key(seed: int, request_id: str | None, sample: int) -> int:
    """Name one stream of random numbers by 64 bits.

    A row with its own seed passes ``request_id=None``, so that equal rows draw equal answers;
    every other row passes the run's seed and its request id. ``sample`` counts the row's ``n``
    answers.
    """
    name = json.dumps([seed, request_id, sample]).encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def sample(
    logits: Tensor,  # [rows, vocab]
    draws: Sequence[Draw] = (),
) -> Tensor:  # [rows] int64, on the device of the logits
    """Return every row's next token, or `NO_TOKEN` where its logits hold NaN or are all -inf.

    Without draws every row is greedy; a caller who knows this saves the pass over the draws.
    The logits are left as they are.
    """
    if all(draw.greedy and draw.sampling.repetition_penalty == 1 for draw in draws):
        return _argmax(logits)
    assert len(draws) == len(logits), f"{len(draws)} draws for {len(logits)} rows"
    slice_rows = max(1, SLICE_LOGITS // logits.shape[1])
    parts = [
        _sample_slice(logits[start : start + slice_rows], draws[start : start + slice_rows])
        for start in range(0, len(draws), slice_rows)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def uniforms(
    keys: npt.NDArray[np.uint64],  # [rows]
    steps: npt.NDArray[np.uint64],  # [rows]
) -> npt.NDArray[np.float64]:  # [rows]
    """Return one number in [0, 1) per (key, step), with 53 random bits.

    The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA'14) over the step, then over step and
    key.
    """
    bits = _splitmix64(keys ^ _splitmix64(steps))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def token_weights(
    scores: Tensor,  # [rows, vocab] float32, after the repetition penalty; overwritten
    samplings: Sequence[Sampling],
) -> Tensor:  # [rows, vocab] int64
    """Return integers in proportion to each token's probability; a filtered token has 0.

    The likeliest token of a row has 2^b, where b is the largest (up to 52) for which no sum over
    the vocabulary overflows: 44 bits for a vocabulary of 150,000. Tokens less likely than 2^-b of
    it are never drawn; all of them together hold less than 1e-8 of the probability.
    """
    temperature = [sampling.temperature for sampling in samplings]
    scores.div_(_column(temperature, torch.float32, scores.device))
    # +inf, in the logits or by the division, would turn into NaN; it only means "certain".
    scores.clamp_(max=torch.finfo(torch.float32).max)
    _filter_top_k(scores, [sampling.top_k for sampling in samplings])
    _filter_top_p(scores, [sampling.top_p for sampling in samplings])
    relative = _exp_below_peak(scores)
    min_p = [sampling.min_p for sampling in samplings]
    if any(min_p):
        relative.masked_fill_(relative < _column(min_p, torch.float64, scores.device), 0.0)
    return _integers(relative)


def _argmax(logits: Tensor) -> Tensor:
    tokens = logits.argmax(dim=-1)
    best = logits.gather(1, tokens[:, None])[:, 0]
    # A row with a NaN has it as its maximum.
    return tokens.masked_fill_(~(best > _NEG_INF), NO_TOKEN)


def _sample_slice(logits: Tensor, draws: Sequence[Draw]) -> Tensor:  # [rows, vocab] -> [rows]
    scores = logits.to(torch.float32, copy=True)
    _penalise_repetition(scores, draws)
    tokens = _argmax(scores)
    drawn = [row for row, draw in enumerate(draws) if not draw.greedy]
    if not drawn:
        return tokens
    if len(drawn) == len(draws):
        return _draw(scores, tokens, draws)
    rows = torch.tensor(drawn, device=logits.device)
    tokens[rows] = _draw(scores[rows], tokens[rows], [draws[row] for row in drawn])
    return tokens


def _draw(
    scores: Tensor,  # [rows, vocab] float32; overwritten
    best: Tensor,  # [rows], from `_argmax`
    draws: Sequence[Draw],
) -> Tensor:  # [rows]
    broken = best == NO_TOKEN
    # A NaN has no integer.
    scores.masked_fill_(broken[:, None], 0.0)
    cumulative = token_weights(scores, [draw.sampling for draw in draws]).cumsum(dim=-1)
    keys = np.array([draw.key for draw in draws], dtype=np.uint64)
    steps = np.array([draw.step for draw in draws], dtype=np.uint64)
    total = cumulative[:, -1:]
    uniform = torch.from_numpy(uniforms(keys, steps)).to(scores.device)[:, None]
    # The total has up to 62 bits and the product 53: rounding may reach the total itself.
    target = torch.minimum((uniform * total).to(torch.int64), total - 1)
    tokens = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return tokens.masked_fill_(broken | (total[:, 0] == 0), NO_TOKEN)


def _penalise_repetition(scores: Tensor, draws: Sequence[Draw]) -> None:
    """Divide the positive and multiply the negative scores of tokens seen before, each once."""
    places: list[npt.NDArray[np.int64]] = []  # flat indices into scores
    penalties: list[npt.NDArray[np.float32]] = []
    vocab = scores.shape[1]
    for row, draw in enumerate(draws):
        if draw.sampling.repetition_penalty == 1:
            continue
        assert draw.history is not None, f"row {row} has a repetition penalty but no history"
        seen = draw.history.astype(np.int64)
        seen = seen[seen < vocab]  # an embedding may have more tokens than the output layer
        places.append(seen + row * vocab)
        penalties.append(np.full(len(seen), draw.sampling.repetition_penalty, dtype=np.float32))
    if not places:
        return
    at = torch.from_numpy(np.concatenate(places)).to(scores.device)
    penalty = torch.from_numpy(np.concatenate(penalties)).to(scores.device)
    flat = scores.view(-1)
    old = flat[at]
    # A token seen twice is written twice with the same score.
    flat[at] = torch.where(old < 0, old * penalty, old / penalty)


def _filter_top_k(scores: Tensor, top_k: Sequence[int]) -> None:
    """Leave the k largest scores of each row, and all that equal the k-th."""
    vocab = scores.shape[1]
    active = [row for row, k in enumerate(top_k) if 0 < k < vocab]
    if not active:
        return
    ranks = [top_k[row] - 1 for row in active]
    rows = torch.tensor(active, device=scores.device)
    part = scores if len(active) == len(top_k) else scores[rows]
    largest = part.topk(max(ranks) + 1, dim=-1).values
    smallest_kept = largest.gather(1, _column(ranks, torch.int64, scores.device))
    part.masked_fill_(part < smallest_kept, _NEG_INF)
    if part is not scores:
        scores[rows] = part


def _filter_top_p(scores: Tensor, top_p: Sequence[float]) -> None:
    """Leave the fewest likeliest tokens that together reach top_p, and at least one.

    Of equal scores at the border those with the larger token ids stay. transformers keeps as many,
    but leaves to an unstable sort which ones.
    """
    active = [row for row, p in enumerate(top_p) if p < 1]
    if not active:
        return
    rows = torch.tensor(active, device=scores.device)
    part = scores if len(active) == len(top_p) else scores[rows]
    ascending, order = part.sort(dim=-1, stable=True)
    cumulative = _integers(_exp_below_peak(ascending)).cumsum(dim=-1)
    dropped_share = [1 - top_p[row] + TOP_P_ROUNDING for row in active]
    limit = _column(dropped_share, torch.float64, scores.device) * cumulative[:, -1:]
    dropped = cumulative <= limit
    dropped[:, -1] = False
    part.masked_fill_(torch.empty_like(dropped).scatter_(1, order, dropped), _NEG_INF)
    if part is not scores:
        scores[rows] = part


def _exp_below_peak(scores: Tensor) -> Tensor:  # [rows, vocab] float32 -> float64, largest is 1
    # Without a finite peak a row would be NaN; with this one it is all 0.
    peak = scores.amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).min)
    return (scores.double() - peak).exp_()


def _integers(relative: Tensor) -> Tensor:  # [rows, vocab] float64 up to 1 -> int64
    bits = min(52, 62 - relative.shape[1].bit_length())
    return relative.mul_(2.0**bits).round_().to(torch.int64)


def _column(
    values: Sequence[float], dtype: torch.dtype, device: torch.device
) -> Tensor:  # [rows, 1]
    return torch.tensor(values, dtype=dtype, device=device)[:, None]


def _splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = state + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
