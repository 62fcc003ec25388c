"""Log-probabilities are the plain model's own, of answers and prompts, however a job is run."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from always import Always
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import load_tokenizer
from tiny_models import EOS_TOKEN_ID, TINY_MODELS, VOCAB_SIZE
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from batchpipe.engine import measuring
from batchpipe.engine.drafting import PromptLookup
from batchpipe.engine.engine import Answer, Engine
from batchpipe.engine.logprobs import Logprobs
from batchpipe.engine.model import bind, load_model
from batchpipe.planner.kv_ledger import blocks_for
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full

Model = Callable[[str], Path]
Job = tuple[list[list[int]], list[Sampling]]

# Two correct engines sum in other orders. bfloat16 has 8 bits, and the scores reach beyond 10.
TOLERATED = {"float32": 2e-4, "bfloat16": 0.25}


@lru_cache(maxsize=32)
def loaded(model_dir: str, dtype: str = "float32") -> tuple[Any, ModelShape]:
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(model_dir, config, dtype=dtype, device=torch.device("cpu"))
    return model, ModelShape.from_config(config)


@lru_cache(maxsize=32)
def plain(model_dir: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def true_logprobs(model_dir: Path, tokens: list[int]) -> Tensor:  # [tokens, vocab]
    """Behind each token, what comes next."""
    with torch.no_grad():
        logits = plain(str(model_dir))(input_ids=torch.tensor([tokens])).logits[0]
    return logits.float().log_softmax(dim=-1)


def engine_of(
    model_dir: Path,
    job: Job,
    *,
    kv_blocks: int = 400,
    step_tokens: int = 64,
    most_tokens: int | None = None,
    guessing: bool = False,
    dtype: str = "float32",
) -> Engine:
    prompts, samplings = job
    plan = make_plan(Prompts.pack(prompts), samplings)
    model, shape = loaded(str(model_dir), dtype)
    engine = Engine(
        bind(model, shape, kv_blocks),
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=frozenset({EOS_TOKEN_ID}),
        request_ids=[f"row-{row}" for row in plan.first_row.tolist()],
        tokenizer=load_tokenizer(str(model_dir)),
    )
    if guessing:
        engine.batcher.speculation = Always(PromptLookup(plan.prompts))
    engine._pieces.most_tokens = most_tokens
    for _ in range(20):
        engine.batcher.lengths.add(0, 1)  # a forecast that lets in too many
    return engine


def answers(engine: Engine) -> list[Answer]:
    """Every answer once, by prompt of the plan; nothing is left over."""
    found = sorted((each for step in engine.steps() for each in step), key=lambda each: each.index)
    assert [answer.index for answer in found] == list(range(len(engine.plan.prompts)))
    assert engine.batcher.ledger.used == 0
    assert engine.counts.completion_tokens == sum(len(answer.token_ids) for answer in found)
    if engine._measuring is not None:
        assert not engine._measuring._answers
        assert not engine._measuring._prompts._kept, "scores of prompts are left over"
    return found


def check(found: Logprobs, truth: Tensor, tokens: list[int], top: int, tolerated: float) -> None:
    """The numbers are the truth's of these tokens, each in its row of it."""
    wanted = truth[torch.arange(len(tokens)), torch.tensor(tokens, dtype=torch.long)]
    np.testing.assert_allclose(found.values, wanted.numpy(), atol=tolerated, rtol=0)
    assert found.top_token_ids.shape == found.top_values.shape == (len(tokens), top)
    best = truth.sort(dim=-1, descending=True).values[:, :top]
    np.testing.assert_allclose(found.top_values, best.numpy(), atol=tolerated, rtol=0)
    own = truth.gather(1, torch.from_numpy(found.top_token_ids).long())
    np.testing.assert_allclose(found.top_values, own.numpy(), atol=tolerated, rtol=0)
    surely_larger = (truth > wanted[:, None] + 2 * tolerated).sum(dim=-1).numpy()
    perhaps_larger = (truth > wanted[:, None] - 2 * tolerated).sum(dim=-1).numpy()
    assert (found.ranks > surely_larger).all()
    assert (found.ranks <= perhaps_larger).all()


def check_answer(model_dir: Path, engine: Engine, answer: Answer, tolerated: float) -> None:
    prompt = engine.plan.prompts[answer.index].tolist()
    sampling = engine.plan.samplings[answer.index]
    truth = true_logprobs(model_dir, [*prompt, *answer.token_ids])
    if sampling.logprobs is None:
        assert answer.logprobs is None
    else:
        assert answer.logprobs is not None
        behind = truth[len(prompt) - 1 : -1]
        check(answer.logprobs, behind, list(answer.token_ids), sampling.logprobs, tolerated)
    if sampling.prompt_logprobs is None or engine.plan.sample[answer.index]:
        assert answer.prompt_logprobs is None
    else:
        assert answer.prompt_logprobs is not None
        first = sampling.prompt_logprobs_from
        behind = truth[first - 1 : len(prompt) - 1]
        top = sampling.prompt_logprobs
        check(answer.prompt_logprobs, behind, prompt[first:], top, tolerated)


def families(seed: int, count: int = 10) -> list[list[int]]:
    """Prompts with prefixes on several levels, some that end where others go on, and twins."""
    rng = np.random.default_rng(seed)
    stems = [rng.integers(0, 380, rng.integers(1, 40)).tolist()]
    for _ in range(3):
        stem = stems[rng.integers(len(stems))]
        stems.append(stem + rng.integers(0, 380, rng.integers(1, 25)).tolist())
    prompts = [stems[rng.integers(4)] + rng.integers(0, 3, rng.integers(0, 4)).tolist()]
    for _ in range(count - 1):
        stem = stems[rng.integers(4)] if rng.random() < 0.8 else [int(rng.integers(380))]
        prompts.append(stem + rng.integers(0, 3, rng.integers(0, 4)).tolist())
    return prompts


asked = st.sampled_from([None, None, 0, 1, 5])


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Prompts of families, each asking for something else."""
    prompts = families(draw(st.integers(0, 10_000)), draw(st.integers(1, 12)))
    samplings = []
    for prompt in prompts:
        scored = draw(asked)
        silent = scored is not None and draw(st.booleans())
        warm = not silent and draw(st.booleans())
        samplings.append(
            Sampling(
                max_tokens=0 if silent else draw(st.integers(1, 12)),
                temperature=0.7 if warm else 0.0,
                n=draw(st.integers(1, 3)) if warm else 1,
                repetition_penalty=draw(st.sampled_from([1.0, 1.3])),
                ignore_eos=draw(st.booleans()),
                logprobs=draw(asked),
                prompt_logprobs=scored,
                prompt_logprobs_from=draw(st.integers(1, len(prompt) + 1)),
            )
        )
    return prompts, samplings


def least_blocks(job: Job) -> int:
    return max(
        blocks_for(len(prompt)) + blocks_for(max(1, sampling.max_tokens)) + len(job[0]) + 2
        for prompt, sampling in zip(*job, strict=True)
    )


# ---- against the plain model --------------------------------------------------------------------


@settings(max_examples=60)
@given(
    job=jobs(),
    spare_blocks=st.integers(0, 12) | st.just(400),
    step_tokens=st.sampled_from([1, 3, 17, 64, 500]),
    most_tokens=st.sampled_from([None, None, 1, 2, 7]),
    guessing=st.booleans(),
    slice_rows=st.sampled_from([1, 3, 1000]),
)
def test_logprobs_are_those_of_the_plain_model(
    tiny_llama: Path,
    job: Job,
    spare_blocks: int,
    step_tokens: int,
    most_tokens: int | None,
    guessing: bool,
    slice_rows: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SLICE_LOGITS", slice_rows * VOCAB_SIZE)
        engine = engine_of(
            tiny_llama,
            job,
            kv_blocks=least_blocks(job) + spare_blocks,
            step_tokens=step_tokens,
            most_tokens=most_tokens,
            guessing=guessing,
        )
        found = answers(engine)
    for answer in found:
        check_answer(tiny_llama, engine, answer, TOLERATED["float32"])


@pytest.fixture(scope="module")
def tiny_llama(tiny_model: Model) -> Path:
    return tiny_model("llama")


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_every_model_tells_them(
    tiny_model: Model, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the head computes some rows at a time, whatever the model does behind it."""
    monkeypatch.setattr(measuring, "SLICE_LOGITS", 5 * VOCAB_SIZE)
    model_dir, prompts = tiny_model(name), families(3)
    asking = Sampling(max_tokens=6, ignore_eos=True, logprobs=2, prompt_logprobs=3)
    engine = engine_of(model_dir, (prompts, [asking] * len(prompts)))
    for answer in answers(engine):
        check_answer(model_dir, engine, answer, TOLERATED["float32"])


def test_half_precision_tells_them_as_far_as_it_goes(tiny_llama: Path) -> None:
    prompts = families(5)
    asking = Sampling(max_tokens=4, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    engine = engine_of(tiny_llama, (prompts, [asking] * len(prompts)), dtype="bfloat16")
    differences = []
    for answer in answers(engine):
        prompt = engine.plan.prompts[answer.index].tolist()
        truth = true_logprobs(tiny_llama, prompt)
        assert answer.prompt_logprobs is not None
        wanted = truth[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        differences += np.abs(answer.prompt_logprobs.values - wanted.numpy()).tolist()
    assert np.median(differences) < TOLERATED["bfloat16"]
