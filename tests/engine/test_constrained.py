"""Answers are what their constraints allow, however the steps are cut, and nobody else's change.

The models have random weights: without a mask they write garbage, so that every right answer is the
mask's work.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from always import Always
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import load_tokenizer
from schemas import LABELS, schemas
from tiny_models import EOS_TOKEN_ID, VOCAB_SIZE
from transformers import AutoConfig

from batchpipe.engine.answer import Answer
from batchpipe.engine.drafting import PromptLookup
from batchpipe.engine.engine import Engine
from batchpipe.engine.model import bind, load_model
from batchpipe.engine.text import finish_text
from batchpipe.planner.machine.model_shape import ModelShape
from batchpipe.planner.planning import make_plan
from batchpipe.planner.request import Constraint, Prompts, Sampling
from batchpipe.planner.schedule.pace import Full
from batchpipe.structured.constraint import constraint_of
from batchpipe.structured.grammars import Grammars
from batchpipe.structured.masks import Masks

Model = Callable[[str], Path]

FREE = Sampling(max_tokens=20, temperature=1.0)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "ab", "é😀"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMS = [
    constraint_of("choices", ["good", "bad", "go", "g", "好😀"]),
    constraint_of("schema", SCHEMA),
    constraint_of("regex", "[0-9]{3}-[A-Z]+;"),
    constraint_of("grammar", 'root ::= "(" (root | [a-c]) ")"'),
]
PROMPTS = [[place % 7, 40 + place, 41, 42, 43 + place % 5] * 3 for place in range(12)]


@lru_cache(maxsize=4)
def loaded(model_dir: str) -> tuple[Any, ModelShape, Any]:
    config = AutoConfig.from_pretrained(model_dir)
    model = load_model(model_dir, config, dtype="float32", device=torch.device("cpu"))
    return model, ModelShape.from_config(config), load_tokenizer(model_dir)


def engine_of(
    model_dir: Path,
    prompts: list[list[int]],
    samplings: Sequence[Sampling],
    *,
    kv_blocks: int = 400,
    step_tokens: int = 64,
    most_tokens: int | None = None,
    guessing: bool = False,
) -> Engine:
    model, shape, tokenizer = loaded(str(model_dir))
    plan = make_plan(Prompts.pack(prompts), samplings)
    asked = [each.constraint for each in plan.samplings if each.constraint is not None]
    masks = None
    if asked:
        masks = Masks(Grammars(tokenizer, VOCAB_SIZE, {EOS_TOKEN_ID}, asked), plan.samplings)
    engine = Engine(
        bind(model, shape, kv_blocks),
        plan,
        kv_blocks=kv_blocks,
        pace=Full(step_tokens),
        eos_token_ids=frozenset({EOS_TOKEN_ID}),
        request_ids=[f"row-{row}" for row in plan.first_row.tolist()],
        tokenizer=tokenizer,
        masks=masks,
    )
    if guessing:
        engine.batcher.speculation = Always(PromptLookup(plan.prompts))
    engine._pieces.most_tokens = most_tokens
    return engine


def answers(engine: Engine) -> list[Answer]:
    """Every answer once, in the order of the prompts."""
    found = sorted((each for step in engine.steps() for each in step), key=lambda each: each.index)
    assert [answer.index for answer in found] == list(range(len(engine.plan.prompts)))
    engine.batcher.ledger.check_integrity()
    return found


def said(found: list[Answer]) -> list[tuple[tuple[int, ...], str]]:
    return [(answer.token_ids, answer.ended_by) for answer in found]


def text_of(model_dir: Path, answer: Answer) -> str:
    tokenizer = loaded(str(model_dir))[2]
    ended = answer.ended_by == "eos"
    return finish_text(
        tokenizer, answer.token_ids, (), stopped_by_string=False, stopped_by_token=ended
    )


def asking(form: Constraint | None, **others: Any) -> Sampling:
    return Sampling(**{"max_tokens": 300, "temperature": 1.0, "constraint": form, **others})


def is_right(form: Constraint, text: str) -> bool:
    """By standards of its own: what compiled the masks has no say."""
    if form.kind == "choices":
        return text in json.loads(form.text)
    if form.kind == "schema":
        jsonschema.validate(json.loads(text), json.loads(form.text))
        return True
    if form.kind == "regex":
        return re.fullmatch(form.text, text) is not None
    depth = (len(text) - 1) // 2
    return text[:depth] + text[depth + 1 :] == "(" * depth + ")" * depth and text[depth] in "abc"


@given(st.lists(schemas(), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=40)
def test_every_answer_to_a_drawn_schema_is_valid(
    tiny_model: Model, drawn: list[dict[str, Any]], seed: int
) -> None:
    model_dir = tiny_model("llama")
    forms = [constraint_of("schema", schema) for schema in drawn]
    samplings = [asking(form, seed=seed) for form in forms]
    for form, answer in zip(
        forms, answers(engine_of(model_dir, PROMPTS[: len(forms)], samplings)), strict=True
    ):
        assert answer.ended_by in ("eos", "complete"), text_of(model_dir, answer)
        assert is_right(form, text_of(model_dir, answer))


@given(LABELS, st.sampled_from([0.0, 1.0, 5.0]))
@settings(max_examples=40)
def test_every_answer_to_drawn_choices_is_one_of_them(
    tiny_model: Model, labels: list[str], temperature: float
) -> None:
    model_dir = tiny_model("llama")
    labels = list(dict.fromkeys(labels)) if len(set(labels)) > 1 else ["a", "ab"]
    form = constraint_of("choices", labels)
    samplings = [asking(form, temperature=temperature)] * len(PROMPTS)
    for answer in answers(engine_of(model_dir, PROMPTS, samplings)):
        assert text_of(model_dir, answer) in labels


def test_a_label_that_begins_another_is_told_from_it_by_its_end(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    samplings = [asking(constraint_of("choices", ["a", "ab", "abc"]), temperature=4.0)] * 12
    found = answers(engine_of(model_dir, PROMPTS, samplings))
    assert {text_of(model_dir, answer) for answer in found} == {"a", "ab", "abc"}
    for answer in found:  # nothing can follow the longest, so that no step is spent on its end
        longest = text_of(model_dir, answer) == "abc"
        assert answer.ended_by == ("complete" if longest else "eos")


def mixed() -> list[Sampling]:
    """Every second row has a form."""
    return [asking(FORMS[row // 2 % 4]) if row % 2 else FREE for row in range(len(PROMPTS))]


@pytest.mark.parametrize("form", FORMS)
def test_a_token_that_is_tried_is_allowed_where_its_mask_allows_it(
    tiny_model: Model, form: Constraint
) -> None:
    masks = engine_of(tiny_model("llama"), PROMPTS[:1], [asking(form)])._masks
    assert masks is not None
    draw = random.Random(0)
    for _ in range(30):
        mask = masks._grammars.full_masks(1)
        masks._matcher(0).fill_next_token_bitmask(mask, 0)
        [words] = mask.tolist()
        allowed = [token for token in range(VOCAB_SIZE) if words[token // 32] >> token % 32 & 1]
        assert [token for token in range(VOCAB_SIZE) if masks._allows(0, token)] == allowed
        token = draw.choice(allowed)
        if token == EOS_TOKEN_ID or masks.accept(0, token):
            break


def test_a_guess_behind_the_end_of_an_answer_is_no_fault(
    tiny_model: Model, capfd: pytest.CaptureFixture[str]
) -> None:
    """A text that ends where the prompt goes on is guessed so; nobody is warned of that."""
    form = constraint_of("choices", ["yes", "yes and no"])
    model_dir = tiny_model("llama")
    masks = engine_of(model_dir, PROMPTS[:1], [asking(form)])._masks
    assert masks is not None
    word = load_tokenizer(model_dir).encode("yes", add_special_tokens=False)
    found = [masks._accepts(0, token) for token in (*word, EOS_TOKEN_ID, word[0], EOS_TOKEN_ID)]
    assert found == [True] * len(word) + [True, False, False]
    assert capfd.readouterr() == ("", "")


def test_rows_without_a_form_draw_what_they_draw_alone(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    together = said(answers(engine_of(model_dir, PROMPTS, mixed())))
    alone = said(answers(engine_of(model_dir, PROMPTS, [FREE] * len(PROMPTS))))
    assert together[::2] == alone[::2]
    assert together[1::2] != alone[1::2]


@pytest.mark.parametrize(
    "disturbed",
    [
        {"kv_blocks": 14},
        {"most_tokens": 3},
        {"step_tokens": 5},
        {"guessing": True},
        {"guessing": True, "most_tokens": 2},
        {"guessing": True, "kv_blocks": 14},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_memory_pieces_and_guesses_change_no_answer(
    tiny_model: Model, disturbed: dict[str, Any], temperature: float
) -> None:
    model_dir = tiny_model("llama")
    samplings = [
        asking(FORMS[row % 4], temperature=temperature, max_tokens=60) for row in range(12)
    ]
    samplings[5] = FREE
    engine = engine_of(model_dir, PROMPTS, samplings, **disturbed)
    found = answers(engine)
    assert said(found) == said(answers(engine_of(model_dir, PROMPTS, samplings)))
    if "kv_blocks" in disturbed:
        assert engine.counts.preemptions
    if disturbed.get("guessing"):
        assert engine.counts.drafted_tokens


def test_a_form_that_allows_what_is_said_anyway_changes_nothing(tiny_model: Model) -> None:
    """Where a greedy answer is among what is allowed, so was every token of it."""
    model_dir = tiny_model("llama")
    prompts = [[number, number + 1, 50] for number in range(100, 160)]
    free = [Sampling(max_tokens=4)] * len(prompts)
    before = answers(engine_of(model_dir, prompts, free))
    texts = [text_of(model_dir, answer) for answer in before]
    # Bytes that are no text are in no grammar.
    kept = [row for row, text in enumerate(texts) if "\N{REPLACEMENT CHARACTER}" not in text]
    assert kept
    anything = asking(constraint_of("regex", r"[\s\S]*"), temperature=0.0, max_tokens=4)
    after = answers(engine_of(model_dir, prompts, [anything] * len(prompts)))
    assert [said(before)[row] for row in kept] == [said(after)[row] for row in kept]


def test_samples_and_seeds_are_each_their_own(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    several = asking(FORMS[1], n=5, seed=3)
    found = answers(engine_of(model_dir, PROMPTS[:1], [several]))
    texts = [text_of(model_dir, answer) for answer in found]
    assert len(set(texts)) > 1
    assert said(found) == said(answers(engine_of(model_dir, PROMPTS[:1], [several])))
    single = answers(engine_of(model_dir, PROMPTS[:1], [asking(FORMS[1], seed=3)]))
    assert said(single) == said(found)[:1]


def test_an_answer_ends_by_itself_only_where_its_form_may_end(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    cut = asking(FORMS[1], max_tokens=4)
    [answer] = answers(engine_of(model_dir, PROMPTS[:1], [cut]))
    assert (answer.ended_by, len(answer.token_ids)) == ("length", 4)
    assert EOS_TOKEN_ID not in answer.token_ids


def test_a_form_that_no_token_can_write_is_told(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    endless = constraint_of("grammar", "root ::= root")
    found = answers(engine_of(model_dir, PROMPTS[:2], [asking(endless), FREE]))
    assert [answer.ended_by for answer in found][:1] == ["stuck"]
    assert found[1].ended_by in ("length", "eos")


def test_no_answer_holds_a_special_token(tiny_model: Model) -> None:
    """Its name is text that a grammar would allow."""
    model_dir = tiny_model("llama")
    special = set(loaded(str(model_dir))[2].all_special_ids)
    assert EOS_TOKEN_ID in special
    hot = asking(constraint_of("regex", r"[\s\S]{40}"), temperature=50.0, max_tokens=200)
    for answer in answers(engine_of(model_dir, PROMPTS, [hot] * len(PROMPTS))):
        assert not special & set(answer.token_ids[:-1])


def test_a_compiled_form_is_forgotten_with_its_last_prompt(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    forms = [constraint_of("regex", f"[0-9]x{number}") for number in range(100)]
    engine = engine_of(model_dir, [[7, number] for number in range(100)], [*map(asking, forms)])
    assert engine._masks is not None
    grammars = engine._masks._grammars
    assert len(grammars._compiled) < 50
    for answer, form in zip(answers(engine), forms, strict=True):
        assert is_right(form, text_of(model_dir, answer))
    assert not grammars._compiled
    assert not engine._masks._matchers


def test_log_probabilities_are_the_models_own_whatever_is_masked(tiny_model: Model) -> None:
    model_dir = tiny_model("llama")
    told = [asking(FORMS[row % 4], logprobs=2, prompt_logprobs=1) for row in range(8)]
    found = answers(engine_of(model_dir, PROMPTS[:8], told))
    plain = [asking(FORMS[row % 4]) for row in range(8)]
    assert said(found) == said(answers(engine_of(model_dir, PROMPTS[:8], plain)))
    for answer in found:
        assert answer.logprobs is not None
        assert len(answer.logprobs) == len(answer.token_ids)
        assert answer.logprobs.ranks.max() > 1, "a mask has left its mark on the scores"
