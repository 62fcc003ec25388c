"""The engine gives the tokens of `model.generate`, whatever it shares, chunks or preempts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import assert_same_tokens, greedy_reference, load_tokenizer
from tiny_models import EOS_TOKEN_ID, TINY_MODELS
from transformers import AutoConfig

from batchpipe.engine.engine import Answer, Engine
from batchpipe.engine.host_kv import HostKV
from batchpipe.engine.model import bind, load_model
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.order import ORDERS
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full

Model = Callable[[str], Path]
FAST_LINK = replace(MACHINES["cpu-2core"], host_bytes_per_second=1e18)  # all pays to be set aside


def answers(
    model_dir: Path,
    prompts: list[list[int]],
    samplings: list[Sampling],
    *,
    kv_blocks: int = 400,
    step_tokens: int = 64,
    order: str = "planned",
    eos: frozenset[int] = frozenset({EOS_TOKEN_ID}),
    seen: Iterable[int] = (),
    names: Sequence[str] | None = None,
    quantize: str | None = None,
    host_blocks: int = 0,
) -> tuple[list[Answer], Engine]:
    names = names or [f"row-{row}" for row in range(len(prompts))]
    plan = make_plan(Prompts.pack(prompts), samplings, order=order)
    config = AutoConfig.from_pretrained(model_dir)
    device = torch.device("cpu")
    model = load_model(str(model_dir), config, dtype="float32", device=device, quantize=quantize)
    shape = ModelShape.from_config(config)
    decoder = bind(model, shape, kv_blocks)
    engine = Engine(
        decoder,
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=eos,
        request_ids=[names[row] for row in plan.first_row.tolist()],
        tokenizer=load_tokenizer(str(model_dir)),
        host=HostKV(decoder.attention, host_blocks) if host_blocks else None,
        swap_by=StepCost(shape, FAST_LINK, "float32"),
    )
    for length in seen:
        engine.batcher.lengths.add(0, length)
    by_prompt = {answer.index: answer for step in engine.steps() for answer in step}
    assert len(by_prompt) == len(plan.prompts)
    engine.batcher.ledger.check_integrity()
    assert engine.batcher.ledger.used == 0, "KV is left over"
    return [by_prompt[index] for index in plan.first_prompt.tolist()], engine


def mixed_prompts(seed: int = 0) -> list[list[int]]:
    """One-token and ragged prompts, prefixes shared on two levels, nested and equal prompts."""
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


# Prompts whose answers are clear of near ties for at least 90 % of the rows, as the oracle wants.
PROMPT_SEEDS = {"mistral": 1, "qwen3_moe": 1}
LIMITS = [20 - index % 3 for index in range(18)]


@pytest.mark.parametrize("name", list(TINY_MODELS))
def test_tokens_equal_generate_and_shared_tokens_are_computed_once(
    tiny_model: Model, name: str
) -> None:
    prompts = mixed_prompts(PROMPT_SEEDS.get(name, 0))
    samplings = [Sampling(max_tokens=limit) for limit in LIMITS]
    reference = greedy_reference(tiny_model(name), prompts, LIMITS)
    found, engine = answers(tiny_model(name), prompts, samplings)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)
    assert engine.counts.computed_prompt_tokens == engine.plan.tree.computed_tokens
    assert engine.counts.preemptions == 0


@pytest.mark.parametrize("name", list(TINY_MODELS))
def test_tokens_equal_generate_when_kv_runs_out(tiny_model: Model, name: str) -> None:
    prompts = mixed_prompts(PROMPT_SEEDS.get(name, 0))
    samplings = [Sampling(max_tokens=limit) for limit in LIMITS]
    reference = greedy_reference(tiny_model(name), prompts, LIMITS)
    short_answers = [1] * 50  # a forecast that is wrong for every row
    found, engine = answers(
        tiny_model(name), prompts, samplings, kv_blocks=14, step_tokens=24, seen=short_answers
    )
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)
    assert engine.counts.preemptions > 0


@pytest.mark.parametrize("host_blocks", [3, 1000])
@pytest.mark.parametrize("name", list(TINY_MODELS))
def test_tokens_equal_generate_when_kv_goes_to_the_host_and_back(
    tiny_model: Model, name: str, host_blocks: int
) -> None:
    prompts = mixed_prompts(PROMPT_SEEDS.get(name, 0))
    samplings = [Sampling(max_tokens=limit) for limit in LIMITS]
    reference = greedy_reference(tiny_model(name), prompts, LIMITS)
    limits = {"kv_blocks": 14, "step_tokens": 24, "seen": [1] * 50}
    without = answers(tiny_model(name), prompts, samplings, **limits)[1].counts
    found, engine = answers(tiny_model(name), prompts, samplings, **limits, host_blocks=host_blocks)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)
    counts = engine.counts
    assert counts.preemptions > 0
    assert counts.swapped_tokens >= counts.restored_tokens > 0
    assert counts.recomputed_tokens < without.recomputed_tokens
    if host_blocks == 1000:
        assert counts.recomputed_tokens == 0
        assert counts.restored_tokens == counts.swapped_tokens


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("step_tokens", [1, 7, 64, 1000])
def test_neither_order_nor_chunks_change_the_tokens(
    tiny_model: Model, order: str, step_tokens: int
) -> None:
    prompts = mixed_prompts()
    samplings = [Sampling(max_tokens=12)] * len(prompts)
    reference = greedy_reference(tiny_model("llama"), prompts, 12)
    found, _ = answers(
        tiny_model("llama"), prompts, samplings, order=order, step_tokens=step_tokens, kv_blocks=40
    )
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)


def test_repetition_penalty_equals_generate(tiny_model: Model) -> None:
    prompts = mixed_prompts(3)
    samplings = [Sampling(max_tokens=16, repetition_penalty=1.4)] * len(prompts)
    reference = greedy_reference(tiny_model("qwen3"), prompts, 16, repetition_penalty=1.4)
    found, _ = answers(tiny_model("qwen3"), prompts, samplings)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)


def test_every_eos_token_ends_an_answer(tiny_model: Model) -> None:
    prompts = mixed_prompts()
    model_dir = tiny_model("llama")
    free = greedy_reference(model_dir, prompts, 16, ignore_eos=True)
    eos = sorted({reference.token_ids[5] for reference in free})[:6]
    reference = greedy_reference(model_dir, prompts, 16, eos_token_id=eos)
    samplings = [Sampling(max_tokens=16)] * len(prompts)
    found, _ = answers(model_dir, prompts, samplings, eos=frozenset(eos))
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)
    assert {answer.ended_by for answer in found} == {"eos", "length"}
    ignoring = [Sampling(max_tokens=16, ignore_eos=True)] * len(prompts)
    found, _ = answers(model_dir, prompts, ignoring, eos=frozenset(eos))
    assert_same_tokens([list(answer.token_ids) for answer in found], free)
    stopping = [Sampling(max_tokens=16, ignore_eos=True, stop_token_ids=tuple(eos))] * len(prompts)
    found, _ = answers(model_dir, prompts, stopping)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)


def test_stop_strings_end_where_generate_ends(tiny_model: Model) -> None:
    prompts = mixed_prompts()
    model_dir = tiny_model("llama")
    tokenizer = load_tokenizer(str(model_dir))
    free = greedy_reference(model_dir, prompts, 16, ignore_eos=True)
    texts = [tokenizer.decode(reference.token_ids[4:8]) for reference in free]
    stops = tuple(sorted({text[1:3] for text in texts if text.isascii() and len(text) > 3})[:4])
    reference = greedy_reference(model_dir, prompts, 16, stop_strings=stops)
    samplings = [Sampling(max_tokens=16, stop=stops)] * len(prompts)
    found, _ = answers(model_dir, prompts, samplings)
    assert_same_tokens([list(answer.token_ids) for answer in found], reference)
    assert "stop_string" in {answer.ended_by for answer in found}


def test_samples_depend_on_seed_and_name_and_nothing_else(tiny_model: Model) -> None:
    prompts = mixed_prompts()
    sampled = Sampling(max_tokens=10, temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, n=2)
    samplings = [sampled] * len(prompts)
    names = [f"row-{row}" for row in range(len(prompts))]
    model_dir = tiny_model("llama")
    first, _ = answers(model_dir, prompts, samplings)
    again, _ = answers(
        model_dir, prompts[::-1], samplings, order="input", step_tokens=9, names=names[::-1]
    )
    assert [a.token_ids for a in first] == [a.token_ids for a in again[::-1]]
    other, _ = answers(model_dir, prompts, samplings, names=[f"x{name}" for name in names])
    assert [a.token_ids for a in first] != [a.token_ids for a in other]


def test_equal_rows_with_an_own_seed_draw_equal_answers(tiny_model: Model) -> None:
    prompts = [[5, 6, 7, 8]] * 3 + [[5, 6, 7, 9]]
    samplings = [Sampling(max_tokens=8, temperature=1.0, seed=seed) for seed in (1, 1, 2, 1)]
    found, engine = answers(tiny_model("llama"), prompts, samplings)
    assert len(engine.plan.prompts) == 3
    assert found[0].token_ids == found[1].token_ids != found[2].token_ids


def test_neighbours_never_change_a_row(tiny_model: Model) -> None:
    """Float32 rounding apart, a row's tokens are those it has alone."""
    prompts = mixed_prompts(5)
    samplings = [Sampling(max_tokens=8)] * len(prompts)
    together, _ = answers(tiny_model("olmo2"), prompts, samplings)
    reference = greedy_reference(tiny_model("olmo2"), prompts, 8)
    alone = [answers(tiny_model("olmo2"), [p], [Sampling(max_tokens=8)])[0][0] for p in prompts]
    assert_same_tokens([list(answer.token_ids) for answer in together], reference)
    assert_same_tokens([list(answer.token_ids) for answer in alone], reference)
