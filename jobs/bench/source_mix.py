"""How long the prompts and answers of BlendServe's mixes are, and how many each source gives.

Knows lengths alone, no token ids; `traces.py` says what is the paper's and what is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

PARAMETERS = 8.03e9  # Llama-3.1-8B
KV_BYTES_PER_TOKEN = 131_072
OUTPUT_CAP = 16_384
SUBJECTS = 57
MMLU_SYSTEM_TOKENS, OPENVID_SYSTEM_TOKENS = 32, 8  # BurstGPT's are what its sharing comes from
PROMPT_SIGMA, QUESTION_SIGMA, FEW_SHOT_SIGMA, VIDEO_SIGMA = 1.0, 0.6, 0.4, 0.5  # of the logarithms
WIDEST_SIGMA = 4.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine does at most."""

    flops_per_second: float
    bytes_per_second: float


A100_PEAK = Rates(312e12, 2.039e12)


@dataclass(frozen=True, slots=True)
class Source:
    """A row of the paper's table: mean tokens, density after sharing, share of saved tokens."""

    name: str
    prompt_tokens: int
    output_tokens: int
    density: float
    sharing: float

    @property
    def shared_tokens(self) -> int:
        """How many tokens each prompt has in common with others of its group."""
        return round(self.sharing * (self.prompt_tokens + self.output_tokens))


BURSTGPT = Source("BurstGPT", 244, 27, 17.78, 0.02)
MMLU = Source("MMLU", 804, 2, 54.91, 0.8646)
OPENVID = Source("OpenVid", 121, 43_726, 0.05, 0.0)
SOURCES = (BURSTGPT, MMLU, OPENVID)
# The heads that prompts begin with: MMLU's subjects first, then these.
OPENVID_HEAD, BURSTGPT_HEAD = SUBJECTS, SUBJECTS + 1


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Requests by the head that their prompts begin with, the tokens behind it, and answers."""

    head: Int64s  # [requests]
    own_tokens: Int64s  # [requests]
    output_tokens: Int64s  # [requests]


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """The lengths of all requests, source by source, and of the few-shot prompts they share."""

    counts: Mapping[str, int]  # requests of each source
    few_shot_tokens: Int64s  # [SUBJECTS]
    lengths: Lengths


def compute_seconds(prompt_tokens: Int64s, output_tokens: Int64s, rates: Rates) -> float:
    """The paper's sum of Comp(r), before sharing."""
    tokens = int(prompt_tokens.sum() + output_tokens.sum())
    return 2 * tokens * PARAMETERS / rates.flops_per_second


def memory_seconds(prompt_tokens: Int64s, output_tokens: Int64s, rates: Rates) -> float:
    """The paper's sum of Mem(r)."""
    read = (prompt_tokens * output_tokens + output_tokens**2 / 2).sum()
    return float(read) * KV_BYTES_PER_TOKEN / rates.bytes_per_second


def draw_mix(
    density: float, sharing: float, requests: int, rng: np.random.Generator, rates: Rates
) -> Mix:
    """Lengths with which the whole has this density and sharing, up to whole requests and tokens.

    Raises ``ValueError`` where no counts meet them, or so few that a source or a subject of MMLU
    would stay without a request.
    """
    few_shot = lognormal(SUBJECTS, MMLU.shared_tokens - MMLU_SYSTEM_TOKENS, FEW_SHOT_SIGMA, rng)
    others = [OPENVID_SYSTEM_TOKENS, BURSTGPT.shared_tokens]
    head_tokens = np.append(MMLU_SYSTEM_TOKENS + few_shot, others)
    # What the tree holds of the heads: the system prompt of MMLU is one for all its subjects.
    stored = int(head_tokens.sum()) - (SUBJECTS - 1) * MMLU_SYSTEM_TOKENS
    burst, mmlu, videos = _counts(density, sharing, requests, stored, rates)
    parts = (mmlu_lengths(mmlu, rng), openvid_lengths(videos, rng), burstgpt_lengths(burst, rng))
    head, own_tokens, output_tokens = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("head", "own_tokens", "output_tokens")
    )
    shared = head_tokens[head]
    for video in range(mmlu + videos - 1, mmlu - 1, -1):
        output_tokens[video] = 0
        exact = _exact_output(
            density, shared + own_tokens, output_tokens, int(shared.sum()) - stored, video, rates
        )
        output_tokens[video] = np.clip(exact, 1, OUTPUT_CAP)
        if output_tokens[video] == exact:
            break
    counts = {BURSTGPT.name: burst, MMLU.name: mmlu, OPENVID.name: videos}
    return Mix(counts, few_shot, Lengths(head, own_tokens, output_tokens))


def _counts(
    density: float, sharing: float, requests: int, stored: int, rates: Rates
) -> tuple[int, int, int]:
    """Requests of BurstGPT, MMLU and OpenVid: their sum, sharing and density are three equations.

    ``stored`` are the tokens of the heads, which even endless sharing computes once.
    """
    video = openvid_lengths(1_000, np.random.default_rng(0)).output_tokens
    outputs = np.array([BURSTGPT.output_tokens, MMLU.output_tokens, video.mean()])
    squares = np.array([_burstgpt_mean_square(), MMLU.output_tokens**2, (video**2).mean()])
    prompts = np.array([source.prompt_tokens for source in SOURCES])
    shared = np.array([BURSTGPT.shared_tokens, MMLU.shared_tokens, OPENVID_SYSTEM_TOKENS])
    tokens = prompts + outputs
    compute = 2 * tokens * PARAMETERS / rates.flops_per_second
    memory = (prompts * outputs + squares / 2) * KV_BYTES_PER_TOKEN / rates.bytes_per_second
    zero = [np.ones(3), shared - sharing * tokens, (1 - sharing) * compute - density * memory]
    burst, mmlu, videos = np.linalg.solve(np.stack(zero), [requests, stored, 0]).tolist()
    if burst < 2 or mmlu < SUBJECTS or videos <= 0:
        raise ValueError(
            f"density {density} and sharing {sharing} need {burst:.1f} BurstGPT, {mmlu:.1f} MMLU "
            f"and {videos:.1f} OpenVid requests of {requests}: choose other values or more requests"
        )
    # Rather a video too many: the last answers can be shortened, but not go beyond the cap.
    whole_mmlu, whole_videos = round(mmlu), int(np.ceil(videos + 0.1))
    return requests - whole_mmlu - whole_videos, whole_mmlu, whole_videos


def _exact_output(
    density: float,
    prompt_tokens: Int64s,
    output_tokens: Int64s,
    saved_tokens: int,
    request: int,
    rates: Rates,
) -> int:
    """How long the answer of ``request``, now 0, must be for all together to have this density.

    0 where the density is below it with any answer.
    """
    per_token = 2 * PARAMETERS / rates.flops_per_second
    per_read = density * KV_BYTES_PER_TOKEN / rates.bytes_per_second
    computed = compute_seconds(prompt_tokens, output_tokens, rates) - saved_tokens * per_token
    missing = computed - density * memory_seconds(prompt_tokens, output_tokens, rates)
    # per_read d^2/2 + slope d = missing: what the answer reads, less what it computes itself.
    slope = per_read * int(prompt_tokens[request]) - per_token
    square = slope**2 + 2 * per_read * missing
    return round((sqrt(square) - slope) / per_read) if square > 0 else 0


def _burstgpt_mean_square() -> float:
    """Mean square of BurstGPT's answers at which its density is the published one."""
    tokens = BURSTGPT.prompt_tokens + BURSTGPT.output_tokens
    compute = (1 - BURSTGPT.sharing) * 2 * tokens * PARAMETERS / A100_PEAK.flops_per_second
    read = compute / BURSTGPT.density * A100_PEAK.bytes_per_second / KV_BYTES_PER_TOKEN
    return 2 * (read - BURSTGPT.prompt_tokens * BURSTGPT.output_tokens)


def burstgpt_lengths(count: int, rng: np.random.Generator) -> Lengths:
    """Answers as uneven as the published density needs."""
    narrow, wide = 0.0, WIDEST_SIGMA
    for _ in range(30):
        sigma = (narrow + wide) / 2
        mean_square = (lognormal(count, BURSTGPT.output_tokens, sigma) ** 2).mean()
        narrow, wide = (sigma, wide) if mean_square < _burstgpt_mean_square() else (narrow, sigma)
    return Lengths(
        np.full(count, BURSTGPT_HEAD),
        lognormal(count, BURSTGPT.prompt_tokens - BURSTGPT.shared_tokens, PROMPT_SIGMA, rng),
        lognormal(count, BURSTGPT.output_tokens, narrow, rng),
    )


def mmlu_lengths(count: int, rng: np.random.Generator) -> Lengths:
    """Questions of the subjects in turn."""
    return Lengths(
        np.arange(count) % SUBJECTS,
        lognormal(count, MMLU.prompt_tokens - MMLU.shared_tokens, QUESTION_SIGMA, rng),
        np.full(count, MMLU.output_tokens),
    )


def openvid_lengths(count: int, rng: np.random.Generator) -> Lengths:
    """Answers of the published mean, cut at the cap."""
    output_tokens = lognormal(count, OPENVID.output_tokens, VIDEO_SIGMA, rng)
    return Lengths(
        np.full(count, OPENVID_HEAD),
        lognormal(count, OPENVID.prompt_tokens - OPENVID_SYSTEM_TOKENS, QUESTION_SIGMA, rng),
        np.minimum(output_tokens, OUTPUT_CAP),
    )


def lognormal(
    count: int, mean: float, sigma: float, rng: np.random.Generator | None = None
) -> Int64s:
    """Whole lengths of 1 or more at evenly spaced quantiles, so that few have the mean as well.

    Shuffled by ``rng``; ascending without one.
    """
    quantile = NormalDist(sigma=sigma or 1e-9).inv_cdf
    shape = np.exp([quantile((index + 0.5) / count) for index in range(count)])
    scale = mean / shape.mean()
    for _ in range(8):  # rounding up to 1 lifts the mean: shrink the rest
        lengths = np.maximum(1, np.rint(scale * shape)).astype(np.int64)
        scale *= mean / lengths.mean()
    return lengths if rng is None else rng.permutation(lengths)
