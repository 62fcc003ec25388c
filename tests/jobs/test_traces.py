"""The rebuilt traces have the density and the sharing that the papers state."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from batchpipe.planner.tree.prefix_tree import build
from batchpipe.rows.trace import Trace

JOB_DIR = Path(__file__).parents[2] / "jobs" / "bench"
sys.path.insert(0, str(JOB_DIR))

import source_mix  # noqa: E402
from source_mix import A100_PEAK, BURSTGPT, MMLU, OPENVID, Rates  # noqa: E402
from traces import MIXES, batchllm, blendserve, mixed  # noqa: E402

REQUESTS = 3_000  # of which 4 to 6 are of OpenVid


def sharing(trace: Trace) -> float:
    """Part of all tokens, of prompts and answers, that is not computed."""
    tree = build(trace.prompts)
    tokens = tree.prompt_tokens + int(trace.output_tokens.sum())
    return (tree.prompt_tokens - tree.computed_tokens) / tokens


def density(trace: Trace, rates: Rates = A100_PEAK) -> float:
    """The paper's formula, request by request."""
    compute = memory = 0.0
    lengths = zip(trace.prompts.lengths.tolist(), trace.output_tokens.tolist(), strict=True)
    for prompt, output in lengths:
        compute += 2 * (prompt + output) * 8.03e9 / rates.flops_per_second
        memory += (prompt * output + output**2 / 2) * 131_072 / rates.bytes_per_second
    return (1 - sharing(trace)) * compute / memory


@pytest.mark.parametrize("number", MIXES)
def test_every_mix_has_the_published_density_and_sharing(number: int) -> None:
    trace = blendserve(number, REQUESTS)
    assert len(trace) == REQUESTS
    assert density(trace) == pytest.approx(MIXES[number][0], rel=1e-3)
    assert sharing(trace) == pytest.approx(MIXES[number][1], abs=3e-3)
    assert trace.output_tokens.max() <= 16_384
    assert trace.output_tokens.min() >= 1


def test_other_rates_change_the_counts_and_keep_the_density() -> None:
    h200 = Rates(989e12, 4.8e12)
    trace, counts = mixed(1.1, 0.25, REQUESTS, rates=h200)
    assert density(trace, h200) == pytest.approx(1.1, rel=1e-3)
    assert sharing(trace) == pytest.approx(0.25, abs=3e-3)
    assert counts[OPENVID.name] < mixed(1.1, 0.25, REQUESTS)[1][OPENVID.name]


def test_each_source_has_its_own_system_prompt() -> None:
    trace, counts = mixed(0.9, 0.35, REQUESTS)
    prompts = list(trace.prompts)
    by_first_token = Counter(int(prompt[0]) for prompt in prompts)
    assert sorted(by_first_token.values()) == sorted(counts.values())
    videos = [prompt for prompt in prompts if by_first_token[prompt[0]] == counts[OPENVID.name]]
    assert len({tuple(prompt[:8].tolist()) for prompt in videos}) == 1
    assert len({int(prompt[8]) for prompt in videos}) == len(videos)


def test_mmlu_has_one_few_shot_prompt_for_each_subject() -> None:
    trace, counts = mixed(0.9, 0.35, REQUESTS)
    by_first_token = Counter(int(prompt[0]) for prompt in trace.prompts)
    (first,) = (token for token, many in by_first_token.items() if many == counts[MMLU.name])
    prompts = [tuple(p.tolist()) for p in trace.prompts if p[0] == first]
    assert len({prompt[:32] for prompt in prompts}) == 1
    subjects = Counter(prompt[:33] for prompt in prompts)
    assert len(subjects) == 57
    assert max(subjects.values()) - min(subjects.values()) <= 1


def test_the_sources_have_the_published_means_and_densities() -> None:
    rng = np.random.default_rng(0)
    drawn = {
        BURSTGPT: (source_mix.burstgpt_lengths(20_000, rng), BURSTGPT.shared_tokens),
        MMLU: (source_mix.mmlu_lengths(20_000, rng), MMLU.shared_tokens),
        OPENVID: (source_mix.openvid_lengths(500, rng), 8),
    }
    for source, (lengths, shared) in drawn.items():
        prompt_tokens, output_tokens = lengths.own_tokens + shared, lengths.output_tokens
        assert prompt_tokens.mean() == pytest.approx(source.prompt_tokens, rel=0.005)
        compute = source_mix.compute_seconds(prompt_tokens, output_tokens, A100_PEAK)
        memory = source_mix.memory_seconds(prompt_tokens, output_tokens, A100_PEAK)
        if source is OPENVID:  # its answers are cut
            assert output_tokens.mean() == pytest.approx(16_300, rel=0.01)
            assert compute / memory == pytest.approx(0.098, rel=0.01)
        else:
            assert output_tokens.mean() == pytest.approx(source.output_tokens, rel=0.005)
            after = (1 - source.sharing) * compute / memory
            assert after == pytest.approx(source.density, rel=0.03)


def test_the_seed_decides_everything() -> None:
    one, same, other = (blendserve(1, REQUESTS, seed) for seed in (4, 4, 5))
    assert np.array_equal(one.prompts.token_ids, same.prompts.token_ids)
    assert np.array_equal(one.output_tokens, same.output_tokens)
    assert not np.array_equal(one.output_tokens, other.output_tokens)


@pytest.mark.parametrize(
    ("wanted", "share", "requests"),
    [(1.4, 0.95, REQUESTS), (90.0, 0.35, REQUESTS), (1.4, 0.05, 40)],
)
def test_a_mix_that_cannot_be_is_refused(wanted: float, share: float, requests: int) -> None:
    with pytest.raises(ValueError, match="choose other values or more requests"):
        mixed(wanted, share, requests)


@pytest.mark.parametrize("degree", [1, 2, 16])
def test_batchllm_shares_each_prefix_among_degree_prompts(degree: int) -> None:
    trace = batchllm(200, 20, degree, prompts=320)
    assert set(trace.prompts.lengths.tolist()) == {220}
    assert set(trace.output_tokens.tolist()) == {100}
    prefixes = Counter(tuple(prompt[:200].tolist()) for prompt in trace.prompts)
    assert set(prefixes.values()) == {degree}
    assert build(trace.prompts).distinct_tokens == 320 // degree * 200 + 320 * 20


def test_batchllm_comes_shuffled_unless_sorted() -> None:
    def neighbours(trace: Trace) -> int:
        firsts = [int(prompt[0]) for prompt in trace.prompts]
        return sum(a == b for a, b in pairwise(firsts))

    assert neighbours(batchllm(50, 5, 8, prompts=404, sorted_by_prefix=True)) == 404 - 51
    assert neighbours(batchllm(50, 5, 8, prompts=404)) < 40
