"""What `model.generate` answers, greedily, in float32, one request at a time: the truth to equal.

Rounding differs between two correct engines, so a token counts only while every earlier choice was
clear: a row is compared up to its first step whose two best logits lie closer than a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

CLEAR_GAP = 1e-4
MIN_COMPARED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Reference:
    """One right answer: its tokens (a stopping eos included) and how clear each choice was.

    ``gaps[i]`` is the best minus the second-best logit at the step that chose ``token_ids[i]``,
    after the repetition penalty.
    """

    token_ids: tuple[int, ...]
    gaps: tuple[float, ...]

    def clear_tokens(self, gap: float = CLEAR_GAP) -> int:
        """The number of tokens before the first unclear choice."""
        unclear = (step for step, step_gap in enumerate(self.gaps) if step_gap <= gap)
        return next(unclear, len(self.gaps))


def greedy_reference(
    model_dir: Path,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    *,
    ignore_eos: bool = False,
    eos_token_id: Sequence[int] | None = None,
    repetition_penalty: float = 1.0,
    stop_strings: Sequence[str] = (),
) -> list[Reference]:
    """The answers of `model.generate`, in the order of the prompts.

    ``max_tokens`` is one number or one per prompt. ``eos_token_id`` replaces the ids of the model's
    ``generation_config.json``; ``ignore_eos`` drops them all. An answer that a stop string ends
    keeps the token that completed the string.
    """
    model, own_eos = _load(str(model_dir))
    eos = None if ignore_eos else list(own_eos if eos_token_id is None else eos_token_id)
    options: dict[str, Any] = {"repetition_penalty": repetition_penalty, "eos_token_id": eos}
    extra: dict[str, Any] = {}
    if stop_strings:
        options["stop_strings"] = list(stop_strings)
        extra["tokenizer"] = load_tokenizer(str(model_dir))
    return _answers(model, prompts, max_tokens, options, extra)


def greedy_answers(
    model: Any, prompts: Sequence[Sequence[int]], max_tokens: int
) -> list[Reference]:
    """The same of a model that is loaded already, with the eos of its generation config."""
    eos = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig()
    return _answers(model, prompts, max_tokens, {"eos_token_id": eos}, {})


def _answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    options: dict[str, Any],
    extra: dict[str, Any],
) -> list[Reference]:
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)
    return [
        _answer(model, prompt, GenerationConfig(**_greedy(limit), **options), extra)
        for prompt, limit in zip(prompts, limits, strict=True)
    ]


def assert_same_tokens(
    actual: Sequence[Sequence[int]], reference: Sequence[Reference], gap: float = CLEAR_GAP
) -> None:
    """Every row equals its reference as far as the reference is clear, and 90 % to their end.

    The second half keeps the test honest: rows that are compared for a few tokens prove little.
    """
    assert len(actual) == len(reference), f"{len(actual)} rows for {len(reference)} references"
    compared_to_end = 0
    for row, (tokens, expected) in enumerate(zip(actual, reference, strict=True)):
        clear = expected.clear_tokens(gap)
        to_end = clear == len(expected.token_ids)
        compared_to_end += to_end
        got = tuple(tokens) if to_end else tuple(tokens)[:clear]
        wanted = expected.token_ids[:clear]
        smallest = min(expected.gaps[:clear], default=0.0)
        assert got == wanted, (
            f"row {row} differs at token {_first_difference(got, wanted)}: "
            f"got {got}, expected {wanted} (smallest gap {smallest:.1e})"
        )
    assert compared_to_end >= MIN_COMPARED_SHARE * len(reference), (
        f"only {compared_to_end} of {len(reference)} rows are clear to the end: take other prompts"
    )


@lru_cache(maxsize=32)
def load_tokenizer(model_dir: str) -> Any:
    """The tokenizer of a model directory, loaded once."""
    return AutoTokenizer.from_pretrained(model_dir)


@lru_cache(maxsize=32)
def _load(model_dir: str) -> tuple[Any, tuple[int, ...]]:
    """The model, and the eos ids of its generation config, which is emptied.

    `generate` fills every option left at None from the model's own generation config, so that
    without the emptying an eos could not be ignored.
    """
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    )
    eos = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig()
    return model.eval(), () if eos is None else tuple([eos] if isinstance(eos, int) else eos)


def _greedy(limit: int) -> dict[str, Any]:
    return {
        "max_new_tokens": limit,
        "do_sample": False,
        "use_cache": True,
        "pad_token_id": 0,  # one request at a time is never padded; None would log a warning
        "return_dict_in_generate": True,
        "output_scores": True,
    }


def _answer(
    model: Any, prompt: Sequence[int], config: GenerationConfig, extra: dict[str, Any]
) -> Reference:
    input_ids = torch.tensor([list(prompt)])  # [1, prompt_tokens]
    mask = torch.ones_like(input_ids)
    made = model.generate(input_ids, attention_mask=mask, generation_config=config, **extra)
    best = torch.cat(made.scores).topk(2).values  # [steps, 2]
    gaps = (best[:, 0] - best[:, 1]).tolist()
    return Reference(tuple(made.sequences[0, len(prompt) :].tolist()), tuple(gaps))


def _first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))
