"""The engine gives the tokens that `model.generate` gives, whatever it shares, chunks or preempts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import assert_same_tokens, greedy_reference, load_tokenizer
from tiny_models import EOS_TOKEN_ID, TINY_MODELS
from transformers import AutoConfig

from batchpipe.engine.engine import Answer, Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.planner.plan import make_plan
from batchpipe.planner.request import Prompts, Sampling

Model = Callable[[str], Path]


def answers(
    model_dir: Path,
    prompts: list[list[int]],
    samplings: list[Sampling],
    *,
    kv_blocks: int = 400,
    step_tokens: int = 64,
    order: str = "planned",
    eos: frozenset[int] = frozenset({EOS_TOKEN_ID}),
) -> tuple[list[Answer], Engine]:
    plan = make_plan(Prompts.pack(prompts), samplings, order=order)
    config = AutoConfig.from_pretrained(model_dir)
    device = torch.device("cpu")
    decoder = bind(load_model(str(model_dir), config, dtype="float32", device=device), kv_blocks)
    engine = Engine(
        decoder,
        plan,
        kv_blocks=kv_blocks,
        step_tokens=step_tokens,
        eos_token_ids=eos,
        request_ids=[f"row-{row}" for row in plan.first_row],
        tokenizer=load_tokenizer(str(model_dir)),
    )
    by_prompt = {answer.index: answer for step in engine.steps() for answer in step}
    assert len(by_prompt) == len(plan.prompts)
    engine.batcher.ledger.check_integrity()
    assert engine.batcher.ledger.used == 0, "KV is left over"
    return [by_prompt[index] for index in plan.first_prompt.tolist()], engine


def mixed_prompts(seed: int = 0) -> list[list[int]]:
    """One-token prompts, ragged lengths, prefixes shared on two levels, nested and equal prompts."""
    rng = np.random.default_rng(seed)

    def some(count: int) -> list[int]:
        return rng.integers(0, 380, count).tolist()

    system, document, other = some(37), some(21), some(50)
    prompts = [some(1), some(1), some(3), some(70), system, system + document]
    prompts += [system + document + some(n) for n in (1, 2, 5, 9, 16, 17)]
    prompts += [system + some(n) for n in (4, 11)]
    prompts += [other + some(n) for n in (1, 6, 30)]
    prompts += [prompts[8]]
    rng.shuffle(prompts)
    return prompts


@pytest.mark.parametrize("name", list(TINY_MODELS))
@pytest.mark.parametrize("kv_blocks", [400, 14])
def test_tokens_equal_generate(tiny_model: Model, name: str, kv_blocks: int) -> None:
    prompts = mixed_prompts()
    limits = [20 - index % 3 for index in range(len(prompts))]
    samplings = [Sampling(max_tokens=limit) for limit in limits]
    reference = greedy_reference(tiny_model(name), prompts, limits)
    found, engine = answers(tiny_model(name), prompts, samplings, kv_blocks=kv_blocks)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)
    if kv_blocks < 100:
        assert engine.counts.preemptions or engine.counts.peak_kv_tokens <= kv_blocks * 16
