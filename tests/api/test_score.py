"""Continuations are as likely as the plain model finds them, and one bad pair is one error."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import load_tokenizer
from transformers import AutoModelForCausalLM

import batchpipe as bp

TEXTS = ["Question: which ticket is urgent?", "The refund goes to", "Question: which box was open?"]
ENDS = [" the first", " nobody at all", " a box"]


@lru_cache(maxsize=1)
def plain(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def truth(model: Path, prompt: list[int], more: list[int]) -> tuple[list[float], bool]:
    with torch.no_grad():
        logits = plain(model)(input_ids=torch.tensor([[*prompt, *more]])).logits[0]
    rows, wanted = logits[len(prompt) - 1 : -1].log_softmax(-1), torch.tensor(more)
    return rows[torch.arange(len(more)), wanted].tolist(), bool((rows.argmax(-1) == wanted).all())


def test_scores_are_those_of_the_plain_model(model: Path) -> None:
    tokenizer = load_tokenizer(str(model))
    pairs = [(prompt, more) for prompt in TEXTS for more in ENDS]
    with bp.LLM(model, dtype="float32") as llm:
        [said] = llm.generate(TEXTS[0], bp.SamplingParams(max_tokens=3, ignore_eos=True))
        pairs.append((TEXTS[0], list(said.outputs[0].token_ids)))
        found = llm.score([prompt for prompt, _ in pairs], [more for _, more in pairs])
    for (prompt, more), each in zip(pairs, found, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        if isinstance(more, str):
            more = tokenizer(more, add_special_tokens=False)["input_ids"]
        values, greedy = truth(model, ids, more)
        np.testing.assert_allclose(each.logprobs, values, atol=5e-4)
        assert each.logprob == pytest.approx(sum(values), abs=2e-3)
        assert (list(each.token_ids), each.greedy, each.prompt_tokens) == (more, greedy, len(ids))
        assert (each.status, each.error) == ("success", None)
    assert found[-1].greedy


def test_one_bad_pair_is_one_error(llm: bp.LLM) -> None:
    pairs: list[tuple[Any, Any]] = [
        ("good", " text"),
        ("", " text"),
        ("good", 5),
        ([1, 2], [10**6]),
        ([1] * 500, [2] * 13),
        ([1] * 500, [2] * 12),
        ("good", "half \ud800"),
        ("good", ""),
        ("good", [-1]),
    ]
    found = llm.score([prompt for prompt, _ in pairs], [more for _, more in pairs])
    assert [each.error and each.error[:60] for each in found] == [
        None,
        "prompt is empty",
        "the continuation is 5; it must be a text or token ids",
        f"token id 1000000 is not below the model's vocabulary size {'380'}"[:60],
        "prompt and continuation have 513 tokens together and the mod",
        None,
        "the continuation has half a surrogate pair",
        None,
        "the continuation is [-1]; it must be a text or token ids",
    ]
    assert [each.logprob is None for each in found] == [each.status == "error" for each in found]
    assert (found[7].logprob, found[7].logprobs) == (0.0, ())


def test_one_pair_needs_no_lists_and_no_pair_is_none(llm: bp.LLM) -> None:
    [alone] = bp.score(TEXTS[0], ENDS[0], model=llm)
    assert alone == llm.score([TEXTS[0]], [ENDS[0]])[0]
    assert bp.score([], [], model=llm) == []


def test_as_many_of_both_are_needed(llm: bp.LLM) -> None:
    with pytest.raises(bp.ConfigError, match="there are 1 continuations for 2 prompts"):
        llm.score(TEXTS[:2], ENDS[:1])
    with pytest.raises(TypeError, match="model must be an LLM"):
        bp.score(TEXTS, ENDS, model=3)  # type: ignore[arg-type]
