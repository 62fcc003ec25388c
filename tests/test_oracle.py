"""The oracle is worth trusting: its models answer richly, and its comparison can fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from oracle import Reference, assert_same_tokens, greedy_reference, load_tokenizer
from tiny_models import EOS_TOKEN_ID, TINY_MODELS, VOCAB_SIZE, WINDOWED_MODELS

TinyModel = Callable[[str], Path]


def _prompts(rows: int, tokens: int) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(256) for _ in range(tokens)] for _ in range(rows)]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_answers_are_varied_and_clear(name: str, tiny_model: TinyModel) -> None:
    answers = greedy_reference(tiny_model(name), _prompts(10, 20), 16, ignore_eos=True)
    assert all(len(answer.token_ids) == len(answer.gaps) == 16 for answer in answers)
    distinct = sorted(len(set(answer.token_ids)) for answer in answers)
    assert distinct[len(distinct) // 2] >= 6, distinct
    assert len({answer.token_ids for answer in answers}) == 10
    assert_same_tokens([answer.token_ids for answer in answers], answers)


@pytest.mark.parametrize("name", sorted(TINY_MODELS.keys() - {"mistral"}))
def test_the_first_prompt_token_decides(name: str, tiny_model: TinyModel) -> None:
    prompts = _prompts(6, 20)
    changed = [[prompt[0] ^ 1, *prompt[1:]] for prompt in prompts]
    before = greedy_reference(tiny_model(name), prompts, 16, ignore_eos=True)
    after = greedy_reference(tiny_model(name), changed, 16, ignore_eos=True)
    differing = sum(a.token_ids != b.token_ids for a, b in zip(before, after, strict=True))
    assert differing >= (3 if name in WINDOWED_MODELS else 5)


def test_a_sliding_window_forgets_the_first_prompt_token(tiny_model: TinyModel) -> None:
    [prompt] = _prompts(1, 40)
    changed = [prompt[0] ^ 1, *prompt[1:]]
    before, after = greedy_reference(tiny_model("mistral"), [prompt, changed], 8, ignore_eos=True)
    assert before.token_ids == after.token_ids


def test_each_prompt_has_its_own_limit(tiny_model: TinyModel) -> None:
    prompts = _prompts(3, 9)
    answers = greedy_reference(tiny_model("llama"), prompts, [1, 5, 3], ignore_eos=True)
    assert [len(answer.token_ids) for answer in answers] == [1, 5, 3]


def test_an_answer_stops_at_a_given_eos_and_keeps_it(tiny_model: TinyModel) -> None:
    prompts = _prompts(1, 9)
    [free] = greedy_reference(tiny_model("llama"), prompts, 16, ignore_eos=True)
    stop = free.token_ids[4]
    [stopped] = greedy_reference(tiny_model("llama"), prompts, 16, eos_token_id=[stop, 1])
    first = free.token_ids.index(stop)
    assert stopped.token_ids == free.token_ids[: first + 1]


def test_the_repetition_penalty_changes_the_answer(tiny_model: TinyModel) -> None:
    prompts = _prompts(4, 9)
    plain = greedy_reference(tiny_model("gpt_neox"), prompts, 16)
    penalised = greedy_reference(tiny_model("gpt_neox"), prompts, 16, repetition_penalty=1.5)
    assert [row.token_ids for row in plain] != [row.token_ids for row in penalised]


def test_an_answer_stops_where_a_stop_string_is_complete(tiny_model: TinyModel) -> None:
    folder = tiny_model("llama")
    tokenizer = load_tokenizer(str(folder))
    for prompt in _prompts(10, 9):
        [free] = greedy_reference(folder, [prompt], 24, ignore_eos=True)
        texts = [tokenizer.decode([token]) for token in free.token_ids]
        word = next((text for text in texts[3:] if text.isascii() and text.strip()), None)
        if word is None:
            continue
        [stopped] = greedy_reference(folder, [prompt], 24, stop_strings=[word])
        text = tokenizer.decode(stopped.token_ids)
        assert word in text
        assert word not in tokenizer.decode(stopped.token_ids[:-1])
        assert free.token_ids[: len(stopped.token_ids)] == stopped.token_ids
        return
    pytest.fail("no answer holds a plain word")


@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_tokenizer_gives_every_text_back(name: str, tiny_model: TinyModel) -> None:
    tokenizer = load_tokenizer(str(tiny_model(name)))
    text = "The parcel wäs late.  \n two  spaces, 日本 and 🎁"
    token_ids = tokenizer.encode(text)
    assert tokenizer.decode(token_ids) == text
    assert max(token_ids) < EOS_TOKEN_ID
    assert len(tokenizer) == VOCAB_SIZE


def test_a_wrong_token_is_reported_with_its_row() -> None:
    reference = [Reference((1, 2), (1.0, 1.0)), Reference((3, 4), (1.0, 1.0))]
    with pytest.raises(AssertionError, match="row 1 differs at token 1"):
        assert_same_tokens([[1, 2], [3, 5]], reference)


@pytest.mark.parametrize("tokens", [[3], [3, 4, 5]])
def test_a_wrong_length_is_reported(tokens: list[int]) -> None:
    with pytest.raises(AssertionError, match="row 0 differs"):
        assert_same_tokens([tokens], [Reference((3, 4), (1.0, 1.0))])


def test_a_row_is_not_compared_past_an_unclear_choice() -> None:
    clear = [Reference((1, 2, 3), (1.0, 1.0, 1.0))] * 9
    unclear = Reference((1, 2, 3), (1.0, 1e-5, 1.0))
    assert_same_tokens([*[[1, 2, 3]] * 9, [1, 9, 9, 9]], [*clear, unclear])
    with pytest.raises(AssertionError, match="row 9 differs at token 0"):
        assert_same_tokens([*[[1, 2, 3]] * 9, [0, 2, 3]], [*clear, unclear])


def test_too_few_clear_rows_are_no_proof() -> None:
    unclear = Reference((1, 2), (1e-5, 1.0))
    with pytest.raises(AssertionError, match="only 0 of 1 rows"):
        assert_same_tokens([[1, 2]], [unclear])
