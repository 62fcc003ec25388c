"""Continuations and labels are scored as the plain model scores them, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import EOS_TOKEN_ID
from transformers import AutoConfig, AutoModelForCausalLM

from batchpipe.engine.answer import Answer
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.scoring import AnswerRows, choose, score

TOLERATED = 5e-4  # of a sum of some tokens in float32


@pytest.fixture(scope="module")
def model_dir(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


def answer_rows(
    model: Any,
    shape: ModelShape,
    prompts: Prompts,
    samplings: Sequence[Sampling],
    *,
    kv_blocks: int,
    step_tokens: int,
) -> list[Answer]:
    """One answer a row by a loaded model, whose KV memory has room for the longest of them."""
    plan = make_plan(prompts, samplings)
    engine = Engine(
        bind(model, shape, kv_blocks),
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=frozenset(),
        request_ids=[str(row) for row in plan.first_row.tolist()],
    )
    found = {each.index: each for step in engine.steps() for each in step}
    return [found[first] for first in plan.first_prompt.tolist()]


@lru_cache(maxsize=2)
def answering(model_dir: Path, step_tokens: int = 32, kv_blocks: int = 60) -> AnswerRows:
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(str(model_dir), config, dtype="float32", device=torch.device("cpu"))
    shape = ModelShape.from_config(config)
    return partial(answer_rows, model, shape, kv_blocks=kv_blocks, step_tokens=step_tokens)


@lru_cache(maxsize=2)
def plain(model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


def truth(model_dir: Path, prompt: list[int], more: list[int]) -> tuple[list[float], bool]:
    """The log-probability of each token of the continuation, and whether all are the likeliest."""
    with torch.no_grad():
        logits = plain(model_dir)(input_ids=torch.tensor([[*prompt, *more]])).logits[0]
    rows = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
    values = rows[torch.arange(len(more)), torch.tensor(more, dtype=torch.long)]
    return values.tolist(), bool((rows.argmax(dim=-1) == torch.tensor(more)).all())


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@settings(max_examples=40)
@given(
    pairs=st.lists(st.tuples(tokens, st.lists(st.integers(0, 3), max_size=4)), max_size=8),
    step_tokens=st.sampled_from([2, 32]),
)
def test_scores_are_those_of_the_plain_model(
    model_dir: Path, pairs: list[tuple[list[int], list[int]]], step_tokens: int
) -> None:
    answer = answering(model_dir, step_tokens)
    found = score(answer, [prompt for prompt, _ in pairs], [more for _, more in pairs])
    assert len(found) == len(pairs)
    for (prompt, more), each in zip(pairs, found, strict=True):
        values, _ = truth(model_dir, prompt, more)
        np.testing.assert_allclose(each.logprobs, values, atol=TOLERATED)
        assert each.logprob == pytest.approx(sum(values), abs=TOLERATED * 4)


def test_what_greedy_decoding_says_is_greedy(model_dir: Path) -> None:
    prompt = [7, 8, 9]
    said = (
        plain(model_dir)
        .generate(
            torch.tensor([prompt]),
            max_new_tokens=5,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, 3:]
        .tolist()
    )
    other = [*said[:4], (said[4] + 1) % 380]
    found = score(answering(model_dir), [prompt] * 2, [said, other])
    assert [each.greedy for each in found] == [True, False]


@settings(max_examples=25)
@given(
    prompts=st.lists(tokens, min_size=1, max_size=3),
    labels=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=5),
)
def test_labels_are_as_likely_as_all_their_tokens(
    model_dir: Path, prompts: list[list[int]], labels: list[list[int]]
) -> None:
    labels = [list(label) for label in dict.fromkeys(map(tuple, labels))]
    begins = any(a != b and b[: len(a)] == a for a in labels for b in labels)
    ends = [[*label, EOS_TOKEN_ID] if begins else label for label in labels]
    found = choose(answering(model_dir), prompts, labels, end_token_id=EOS_TOKEN_ID)
    for prompt, choice in zip(prompts, found, strict=True):
        totals = [sum(truth(model_dir, prompt, end)[0]) for end in ends]
        wanted = torch.tensor(totals, dtype=torch.float64).softmax(dim=0).numpy()
        np.testing.assert_allclose(choice.probabilities, wanted, atol=2e-3)
        assert choice.probabilities.sum() == pytest.approx(1)
        ordered = sorted([0.0, *choice.probabilities])
        assert choice.margin == pytest.approx(ordered[-1] - ordered[-2])
        assert choice.probabilities[choice.best] == ordered[-1]


def test_many_labels_compute_the_prompt_once(model_dir: Path) -> None:
    answer = answering(model_dir)
    computed: list[int] = []

    def counting(prompts: Prompts, samplings: list[Sampling]) -> list[Answer]:
        found = list(answer(prompts, samplings))
        computed.extend(
            len(prompt) - 1 - each.cached_tokens
            for prompt, each in zip(prompts, found, strict=True)
        )
        return found

    choose(counting, [[1] * 50], [[2], [3], [4]])
    assert sum(computed) == 50


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "there must be labels"),
        ([[1], []], "every label needs a token"),
        ([[1, 2], [3], [1, 2]], "label 0 is there twice"),
        ([[1, 2], [3], [1]], "label 2 is the beginning of label 0"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    model_dir: Path, labels: list[list[int]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        choose(answering(model_dir), [[1]], labels)


def test_nothing_follows_nothing(model_dir: Path) -> None:
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        score(answering(model_dir), [[1], []], [[2], [3]])
    with pytest.raises(ValueError, match="2 prompts and 1 continuations"):
        score(answering(model_dir), [[1], [1]], [[2]])
