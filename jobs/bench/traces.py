"""The request traces of two papers on offline inference, rebuilt with random token ids.

    python jobs/bench/traces.py --requests 40000

**BlendServe** (Zhao et al., ASPLOS'26, arXiv 2411.16102), traces #1 to #4. The paper's: three
sources with their mean lengths, densities and shares of saved work (`source_mix.SOURCES`), the
model Llama-3.1-8B, a system prompt of its own for each source, and density and sharing of each
trace (`MIXES`). Density is compute time over memory time, after sharing, at the peak rates of an
A100:

    compute seconds = 2 (p + d) parameters / compute rate            p prompt, d output tokens
    memory seconds  = (p d + d^2/2) KV bytes of a token / bandwidth
    density         = (1 - sharing) sum(compute) / sum(memory)

Ours, where the paper is silent: sharing is the part of all tokens to compute, of prompts and of
answers, that the prefix tree saves. Prompts and answers are lognormal and independent, with the
table's means; BurstGPT's answers are as uneven as its published density needs. MMLU has a few-shot
prompt for each of 57 subjects, of lognormal lengths, and every answer of it has two tokens, which
makes its density 54.3, not 54.91. OpenVid's answers, 43,726 tokens on average, are cut at 16,384,
which makes their mean 16,262 and their density 0.10: the formulas cannot give the published 0.05 to
answers that short. The number of requests from each source follows from density and sharing; the
last answers of OpenVid are given other lengths until the density is exact.

**BatchLLM** (Zheng et al., MLSys'26, arXiv 2412.03594), micro-benchmark. The paper's: prompts in
groups with one prefix, parts of fixed lengths, 6,400 prompts in random order, 100 output tokens.

**Zipf**, ours: templates behind a few system prompts, each as popular as one over its place.
"""

from __future__ import annotations

from collections.abc import Mapping

import click
import numpy as np
from record import as_table
from source_mix import (
    A100_PEAK,
    BURSTGPT,
    MMLU_SYSTEM_TOKENS,
    OPENVID_SYSTEM_TOKENS,
    Int64s,
    Lengths,
    Rates,
    compute_seconds,
    draw_mix,
    lognormal,
    memory_seconds,
)

from batchpipe.planner.request import Prompts, TokenIds
from batchpipe.planner.tree.prefix_tree import build
from batchpipe.rows.trace import Trace

MIXES = {1: (1.4, 0.35), 2: (0.9, 0.35), 3: (1.4, 0.05), 4: (0.9, 0.05)}  # density, sharing
VOCAB = 128_256
BATCHLLM_SIZES = ((2_000, 200, 1), (2_000, 200, 2), (2_000, 200, 16), (16_000, 200, 16))


def blendserve(
    number: int, requests: int = 40_000, seed: int = 0, rates: Rates = A100_PEAK
) -> Trace:
    """Trace ``number`` of the paper, in random order; see `mixed`."""
    density, sharing = MIXES[number]
    return mixed(density, sharing, requests, seed, rates)[0]


def mixed(
    density: float, sharing: float, requests: int, seed: int = 0, rates: Rates = A100_PEAK
) -> tuple[Trace, Mapping[str, int]]:
    """A mix of the three sources in random order, and how many requests each source gave.

    Raises ``ValueError`` where no mix has this density and sharing. ``rates`` are those at which
    the mix has the density; the sources keep their lengths.
    """
    rng = np.random.default_rng(seed)
    mix = draw_mix(density, sharing, requests, rng, rates)
    mmlu_system, openvid_system, burst_system = _random_rows(
        [MMLU_SYSTEM_TOKENS, OPENVID_SYSTEM_TOKENS, BURSTGPT.shared_tokens], rng
    )
    few_shots = _random_rows(mix.few_shot_tokens.tolist(), rng)
    heads = [np.concatenate([mmlu_system, few_shot]) for few_shot in few_shots]
    heads += [openvid_system, burst_system]
    return _trace(heads, mix.lengths, rng.permutation(requests), rng), mix.counts


def batchllm(
    prefix_tokens: int,
    own_tokens: int,
    degree: int,
    prompts: int = 6_400,
    output_tokens: int = 100,
    seed: int = 0,
    *,
    sorted_by_prefix: bool = False,
) -> Trace:
    """Every ``degree`` prompts have one prefix; in random order, or group behind group."""
    rng = np.random.default_rng(seed)
    heads = _random_rows([prefix_tokens] * -(-prompts // degree), rng)
    lengths = Lengths(
        np.arange(prompts) // degree,
        np.full(prompts, own_tokens),
        np.full(prompts, output_tokens),
    )
    order = np.arange(prompts) if sorted_by_prefix else rng.permutation(prompts)
    return _trace(heads, lengths, order, rng)


def zipf(
    requests: int = 40_000, templates: int = 400, exponent: float = 1.0, seed: int = 0
) -> Trace:
    """Template ``k`` of so many is asked for in proportion to ``k ** -exponent``.

    Lognormal lengths: 256 tokens of a system prompt, one of eight, 512 of the template, 256 of the
    request's own and 128 of its answer, on average.
    """
    rng = np.random.default_rng(seed)
    systems = _random_rows(lognormal(8, 256, 0.5, rng).tolist(), rng)
    bodies = _random_rows(lognormal(templates, 512, 0.8, rng).tolist(), rng)
    heads = [np.concatenate([systems[k % 8], body]) for k, body in enumerate(bodies)]
    popularity = np.arange(1, templates + 1) ** -exponent
    chosen = rng.choice(templates, requests, p=popularity / popularity.sum())
    own, answers = (lognormal(requests, mean, 1.0, rng) for mean in (256, 128))
    return _trace(heads, Lengths(chosen, own, answers), rng.permutation(requests), rng)


def _random_rows(lengths: list[int], rng: np.random.Generator) -> list[TokenIds]:
    """Rows of random token ids, the first of which differ as long as the vocabulary lasts.

    Else thousands of prompts behind one head would share a token by chance; 400,000 must, and then
    0.2 % of a mix's tokens are saved beyond what was asked for.
    """
    rows = [rng.integers(0, VOCAB, length, dtype=np.int32) for length in lengths]
    start = int(rng.integers(VOCAB))
    for index, row in enumerate(rows):
        row[:1] = (start + index) % VOCAB
    return rows


def _trace(
    heads: list[TokenIds], lengths: Lengths, order: Int64s, rng: np.random.Generator
) -> Trace:
    """Each prompt is its head and random token ids; the requests come in this order."""
    rows = _random_rows(lengths.own_tokens[order].tolist(), rng)
    head = lengths.head[order].tolist()
    prompts = [np.concatenate([heads[h], row]) for h, row in zip(head, rows, strict=True)]
    return Trace(Prompts.pack(prompts), lengths.output_tokens[order])


def figures(name: str, trace: Trace, counts: Mapping[str, int], rates: Rates) -> dict[str, str]:
    """What the papers' tables say of a trace, measured on its token ids."""
    prompt_tokens, output_tokens = trace.prompts.lengths, trace.output_tokens
    tree = build(trace.prompts)
    saved = tree.prompt_tokens - tree.computed_tokens
    sharing = saved / int(prompt_tokens.sum() + output_tokens.sum())
    compute = compute_seconds(prompt_tokens, output_tokens, rates)
    memory = memory_seconds(prompt_tokens, output_tokens, rates)
    return {
        "trace": name,
        "requests": f"{len(trace):,}",
        **{source: f"{count:,}" for source, count in counts.items()},
        "mean in": f"{prompt_tokens.mean():.1f}",
        "mean out": f"{output_tokens.mean():.1f}",
        "longest in": f"{prompt_tokens.max():,}",
        "longest": f"{(prompt_tokens + output_tokens).max():,}",
        "T_comp s": f"{compute:.1f}",
        "T_mem s": f"{memory:.1f}",
        "sharing": f"{sharing:.2%}",
        "of prompts": f"{saved / tree.prompt_tokens:.2%}",
        "density": f"{(1 - sharing) * compute / memory:.4f}",
    }


@click.command()
@click.option("--requests", type=int, default=40_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(requests: int, seed: int) -> None:
    """Print the figures of every trace, times at the peak rates of an A100 before sharing."""
    rows = []
    for number, (density, sharing) in MIXES.items():
        trace, counts = mixed(density, sharing, requests, seed)
        rows.append(figures(f"BlendServe #{number}", trace, counts, A100_PEAK))
    for prefix_tokens, own_tokens, degree in BATCHLLM_SIZES:
        trace = batchllm(prefix_tokens, own_tokens, degree, seed=seed)
        name = f"BatchLLM {prefix_tokens}+{own_tokens} x{degree}"
        rows.append(figures(name, trace, {}, A100_PEAK))
    print(as_table(rows))


if __name__ == "__main__":
    main()
