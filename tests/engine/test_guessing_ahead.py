"""Guessing ahead changes no answer: not what is drawn, and not where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from always import Always
from exact_decoder import VOCAB, ExactDecoder
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assert_same_tokens, greedy_reference, load_tokenizer
from small_jobs import small_cost
from tiny_models import EOS_TOKEN_ID, TINY_MODELS
from transformers import AutoConfig

import batchpipe.demo
from batchpipe.engine.drafting import PromptLookup
from batchpipe.engine.engine import Answer, Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.engine.token_batch import TokenBatch
from batchpipe.planner.kv_ledger import blocks_for
from batchpipe.planner.machine.machines import MACHINES
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.machine.step_cost import StepCost
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.planner.schedule.segment import Sequence
from batchpipe.planner.schedule.speculation import MOST_MATCHED, Guess

Model = Callable[[str], Path]

OFF, AUTO, ALWAYS = "off", "auto", "always"
DEMO = Path(batchpipe.demo.__file__).parent / "model"


@lru_cache(maxsize=32)
def loaded(model_dir: str) -> tuple[Any, ModelShape]:
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(model_dir, config, dtype="float32", device=torch.device("cpu"))
    return model, ModelShape.from_config(config)


def weights_alone(shape: ModelShape) -> StepCost:
    """Reading the weights is all that costs, so that any guess with some chance pays."""
    return StepCost(shape, replace(MACHINES["cpu-2core"], weight_bytes_per_second=1e3), "float32")


class Knowing:
    """Guesses from the answers of another run, every so often a wrong token."""

    def __init__(self, answers: list[Answer], wrong_every: int) -> None:
        self._answers = {answer.index: answer.token_ids for answer in answers}
        self._wrong_every = wrong_every

    def guess(self, sequence: Sequence, most: int) -> Guess | None:
        first = len(sequence.answer)
        # Behind the end of the answer too: what is drawn there must not count.
        told = (*self._answers[sequence.index][first : first + most], 5, 6)[:most]
        at = range(first, first + most)
        tokens = (
            token if place % self._wrong_every else (token + 1) % VOCAB
            for place, token in zip(at, told, strict=False)
        )
        return Guess(tuple(tokens), MOST_MATCHED)

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept."""


def engine_of(
    model_dir: Path,
    prompts: list[list[int]],
    samplings: list[Sampling],
    mode: str = AUTO,
    *,
    kv_blocks: int = 400,
    step_tokens: int = 64,
    seen: tuple[int, ...] = (),
    most_tokens: int | None = None,
) -> Engine:
    plan = make_plan(Prompts.pack(prompts), samplings)
    model, shape = loaded(str(model_dir))
    engine = Engine(
        bind(model, shape, kv_blocks),
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=frozenset({EOS_TOKEN_ID}),
        request_ids=[f"row-{row}" for row in plan.first_row.tolist()],
        tokenizer=load_tokenizer(str(model_dir)),
        speculate_by=weights_alone(shape) if mode == AUTO else None,
    )
    if mode == ALWAYS:
        engine.batcher.speculation = Always(PromptLookup(plan.prompts))
    engine._pieces.most_tokens = most_tokens
    for length in seen:
        engine.batcher.lengths.add(0, length)
    return engine


def answers(engine: Engine) -> list[Answer]:
    """Every answer once, by prompt; all memory is free again."""
    found = [answer for step in engine.steps() for answer in step]
    engine.batcher.ledger.check_integrity()
    assert engine.batcher.ledger.used == 0, "KV is left over"
    counts = engine.counts
    assert 0 <= counts.accepted_tokens <= counts.drafted_tokens
    assert counts.completion_tokens == sum(len(answer.token_ids) for answer in found)
    found.sort(key=lambda answer: answer.index)
    assert [answer.index for answer in found] == list(range(len(engine.plan.prompts)))
    return found


def said(found: list[Answer]) -> list[tuple[tuple[int, ...], str]]:
    return [(answer.token_ids, answer.ended_by) for answer in found]


def repetitive_prompts(seed: int, count: int = 8) -> list[list[int]]:
    """Prompts of a few phrases said again and again, some of them begun alike."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(0, 380, rng.integers(1, 9)).tolist() for _ in range(4)]
    stem = phrases[0] * 4
    return [
        (stem if rng.random() < 0.5 else [])
        + [token for pick in rng.integers(0, 4, rng.integers(1, 9)) for token in phrases[pick]]
        for _ in range(count)
    ]


# ---- equal to generate ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"), [("llama", AUTO), *((name, ALWAYS) for name in sorted(TINY_MODELS))]
)
def test_tokens_equal_generate(tiny_model: Model, name: str, mode: str) -> None:
    model_dir, prompts = tiny_model(name), repetitive_prompts(2, 20)
    reference = greedy_reference(model_dir, prompts, 24)
    engine = engine_of(model_dir, prompts, [Sampling(max_tokens=24)] * 20, mode)
    found = answers(engine)
    by_row = [list(found[first].token_ids) for first in engine.plan.first_prompt.tolist()]
    assert_same_tokens(by_row, reference)
    assert engine.counts.drafted_tokens > 0 or mode == AUTO


def test_shipped_model_says_the_same_in_fewer_steps() -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(5, 300, 20).tolist() * 2 for _ in range(4)]
    samplings = [Sampling(max_tokens=60, ignore_eos=True)] * 4
    plain = engine_of(DEMO, prompts, samplings, OFF)
    expected = said(answers(plain))
    for mode in (AUTO, ALWAYS):
        engine = engine_of(DEMO, prompts, samplings, mode)
        assert said(answers(engine)) == expected
        assert engine.counts.steps < plain.counts.steps


# ---- the same, on and off, whatever is asked for ------------------------------------------------


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[list[int]], list[Sampling]]:
    """Few prompts that repeat themselves, each with its own way to draw and to end."""
    prompts = [
        [token % VOCAB for token in prompt]
        for prompt in repetitive_prompts(draw(st.integers(0, 99)), draw(st.integers(1, 5)))
    ]
    samplings = [
        Sampling(
            max_tokens=draw(st.integers(1, 60)),
            temperature=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
            top_k=draw(st.sampled_from([0, 3])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
            n=draw(st.sampled_from([1, 1, 2])),
            seed=draw(st.sampled_from([None, 3])),
            stop=draw(st.sampled_from([(), (), ("b",), ("cd", "X", "ab")])),
            stop_token_ids=tuple(draw(st.lists(st.integers(0, VOCAB - 1), max_size=2))),
            ignore_eos=draw(st.booleans()),
        )
        for _ in prompts
    ]
    return prompts, samplings


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, token_ids: list[int], **how: bool) -> str:
        return "".join(chr(ord("a") + token) for token in token_ids)


def exact_engine(
    job: tuple[list[list[int]], list[Sampling]],
    mode: str,
    kv_blocks: int = 400,
    most_tokens: int | None = None,
) -> Engine:
    prompts, samplings = job
    plan = make_plan(Prompts.pack(prompts), samplings)
    engine = Engine(
        ExactDecoder(kv_blocks, most_tokens),  # type: ignore[arg-type]
        plan,
        kv_blocks=kv_blocks,
        pace=Full(64),
        eos_token_ids=frozenset({VOCAB - 1}),
        request_ids=[f"row-{row}" for row in plan.first_row.tolist()],
        tokenizer=Letters(),
        speculate_by=weights_alone(small_cost().shape) if mode == AUTO else None,
    )
    if mode == ALWAYS:
        engine.batcher.speculation = Always(PromptLookup(plan.prompts))
    for _ in range(20):
        engine.batcher.lengths.add(0, 1)  # a forecast that lets in too many
    return engine


def least_blocks(prompts: list[list[int]], samplings: list[Sampling]) -> int:
    """A prompt has at most so many nodes above it as there are other prompts."""
    return max(
        blocks_for(len(prompt)) + blocks_for(sampling.max_tokens) + len(prompts) + 2
        for prompt, sampling in zip(prompts, samplings, strict=True)
    )


@settings(max_examples=60)
@given(
    jobs(),
    st.sampled_from([AUTO, ALWAYS]),
    st.integers(0, 20) | st.just(400),
    st.sampled_from([None, None, 1, 2, 5, 11]),
)
def test_answers_do_not_depend_on_guesses(
    job: tuple[list[list[int]], list[Sampling]],
    mode: str,
    spare_blocks: int,
    most_tokens: int | None,
) -> None:
    blocks = least_blocks(*job) + spare_blocks
    plain = answers(exact_engine(job, OFF))
    assert said(answers(exact_engine(job, mode, blocks, most_tokens))) == said(plain)


@settings(max_examples=40)
@given(jobs(), st.sampled_from([2, 3, 7, 1000]), st.integers(0, 20), st.sampled_from([None, 2, 7]))
def test_right_guesses_are_worth_what_they_replace(
    job: tuple[list[list[int]], list[Sampling]],
    wrong_every: int,
    spare_blocks: int,
    most_tokens: int | None,
) -> None:
    blocks = least_blocks(*job) + spare_blocks
    plain = answers(exact_engine(job, OFF))
    engine = exact_engine(job, OFF, blocks, most_tokens)
    engine.batcher.speculation = Always(Knowing(plain, wrong_every))
    assert said(answers(engine)) == said(plain)


@pytest.mark.parametrize("seed", range(3))
def test_preempted_answers_are_the_same(tiny_model: Model, seed: int) -> None:
    model_dir, prompts = tiny_model("llama"), repetitive_prompts(seed)
    samplings = [Sampling(max_tokens=60)] * 8
    blocks = least_blocks(prompts, samplings) + 2
    plain = answers(engine_of(model_dir, prompts, samplings, OFF))
    for mode in (OFF, AUTO, ALWAYS):
        engine = engine_of(model_dir, prompts, samplings, mode, kv_blocks=blocks, seen=(1,) * 50)
        assert said(answers(engine)) == said(plain)
        assert engine.counts.preemptions > 0


# ---- where an answer ends -----------------------------------------------------------------------


def test_right_guesses_behind_an_end_do_not_count(tiny_model: Model) -> None:
    """Eight right tokens are computed at once, and a stop token is the third of them."""
    model_dir, prompts = tiny_model("llama"), repetitive_prompts(4, 4)
    free = answers(engine_of(model_dir, prompts, [Sampling(max_tokens=24)] * 4, OFF))
    stop = next(token for place, token in enumerate(free[0].token_ids) if place >= 3)
    sampling = Sampling(max_tokens=24, stop_token_ids=(stop,))
    plain = answers(engine_of(model_dir, prompts, [sampling] * 4, OFF))
    engine = engine_of(model_dir, prompts, [sampling] * 4, OFF)
    engine.batcher.speculation = Always(Knowing(free, 1000))
    assert said(answers(engine)) == said(plain)
    assert plain[0].ended_by == "eos"
    assert engine.counts.accepted_tokens > 0


def test_limits_are_never_passed(tiny_model: Model) -> None:
    model_dir, prompts = tiny_model("llama"), repetitive_prompts(5, 6)
    samplings = [Sampling(max_tokens=limit, ignore_eos=True) for limit in (1, 2, 3, 9, 10, 11)]
    plain = answers(engine_of(model_dir, prompts, samplings, OFF))
    engine = engine_of(model_dir, prompts, samplings, OFF)
    engine.batcher.speculation = Always(Knowing(plain, 1000))
    found = answers(engine)
    assert sorted(len(answer.token_ids) for answer in found) == [1, 2, 3, 9, 10, 11]
    assert said(found) == said(plain)


class Broken(ExactDecoder):
    """A decoder whose scores at one position are no numbers."""

    def logits(self, batch: TokenBatch) -> torch.Tensor:
        found = super().logits(batch)
        found[batch.layout.positions[batch.sampled] == 12] = float("nan")
        return found


def test_scores_that_are_no_numbers_end_an_answer_where_they_come() -> None:
    job = ([[9, 9, 9, 9, 9], [7, 8, 7, 8, 7]], [Sampling(max_tokens=20, ignore_eos=True)] * 2)
    found = []
    for mode in (OFF, ALWAYS):
        engine = exact_engine(job, mode)
        engine.decoder = Broken(400)  # type: ignore[assignment]
        found.append(sorted((answer for step in engine.steps() for answer in step), key=str))
        assert engine.batcher.ledger.used == 0
    assert said(found[0]) == said(found[1])
    assert {answer.ended_by for answer in found[1]} == {"nan"}
