"""Streaming finds a stop string at the same token as decoding everything each time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from batchpipe.engine.text import StopStrings, decode, finish_text

CORPUS = [
    "The answer is yes.\n\nThe answer is no.",
    "User: how are you?\nAssistant: I am well, thank you.</answer>",
    "naïve café – 価格は１２円です。 😀😀 👩‍👩‍👧 Ελλάδα",
    "### Question\n### Answer\n    indented    code()\n" * 3,
]


def byte_level() -> PreTrainedTokenizerFast:
    """A GPT-2/Llama-3/Qwen kind of tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("\n\n\n")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """A Llama-2/Gemma kind of tokenizer: no leading space, rare characters are bytes."""
    pieces = ["<eos>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", "▁▁▁▁", "\n", "\n\n", ".", "▁.", ",", "é", "▁é", "#", "##", "###"]
    pieces += ["▁The", "▁answer", "The", "an", "swer", "▁is", "yes", "s.", "</", ">", "円", "。"]
    pieces += [*"abcdefghijklmnopqrstuvwxyzT"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


TOKENIZERS = {"byte-level": byte_level(), "byte-fallback": byte_fallback()}
KINDS = list(TOKENIZERS)


def first_stop(kind: str, token_ids: Sequence[int], stops: tuple[str, ...]) -> int | None:
    """How many tokens the text has when it first contains a stop string, the obvious way."""
    for count in range(1, len(token_ids) + 1):
        text = decode(TOKENIZERS[kind], token_ids[:count])
        if any(stop in text for stop in stops):
            return count
    return None


def first_found(kind: str, token_ids: Sequence[int], stops: tuple[str, ...]) -> int | None:
    checker = StopStrings(TOKENIZERS[kind], stops)
    for count in range(1, len(token_ids) + 1):
        if checker.found(token_ids[:count]):
            return count
    return None


def spelled(kind: str, text: str) -> list[int]:
    """The text as single bytes, whatever longer tokens there are."""
    tokenizer = TOKENIZERS[kind]
    if kind == "byte-fallback":
        return tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in text.encode()])
    alphabet = dict(zip(*_byte_alphabet(), strict=True))
    return tokenizer.convert_tokens_to_ids([alphabet[byte] for byte in text.encode()])


def _byte_alphabet() -> tuple[list[int], list[str]]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable]
    characters += [chr(256 + place) for place in range(len(others))]
    return printable + others, characters


texts = st.text(alphabet=st.sampled_from("ab .\n#é円😀👩‍👧\u0301"), max_size=12)


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[int], tuple[str, ...]]:
    """Random tokens and texts, with stop strings that are often cut out of what was decoded."""
    kind = draw(st.sampled_from(KINDS))
    tokenizer = TOKENIZERS[kind]
    token_ids: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        random_ids = st.lists(st.integers(0, len(tokenizer) + 5), max_size=6)
        if draw(st.booleans()):
            token_ids += draw(random_ids)
        elif draw(st.booleans()):
            token_ids += spelled(kind, draw(texts))
        else:
            token_ids += tokenizer.encode(draw(texts), add_special_tokens=False)
    text = decode(tokenizer, token_ids)
    stops = draw(st.lists(texts.filter(bool), max_size=1))
    for _ in range(draw(st.integers(0, 2))):
        if text:
            start = draw(st.integers(0, len(text) - 1))
            stops.append(text[start : start + draw(st.integers(1, 7))])
    assume(stops)
    return kind, token_ids, tuple(stops)


@settings(max_examples=600)
@given(answers())
@example(("byte-fallback", spelled("byte-fallback", "😀" * 30 + "é"), ("😀é",)))
@example(("byte-level", spelled("byte-level", "a" * 30 + "円円"), ("円円",)))
def test_streaming_stops_at_the_first_token_whose_text_has_a_stop(
    answer: tuple[str, list[int], tuple[str, ...]],
) -> None:
    kind, token_ids, stops = answer
    assume(not any("\ufffd" in stop for stop in stops))
    assert first_found(kind, token_ids, stops) == first_stop(kind, token_ids, stops)


@settings(max_examples=200)
@given(answers(), st.booleans())
def test_the_answer_ends_before_its_first_stop(
    answer: tuple[str, list[int], tuple[str, ...]], ended_by_token: bool
) -> None:
    kind, token_ids, stops = answer
    tokenizer = TOKENIZERS[kind]
    whole = decode(tokenizer, token_ids)
    assert finish_text(tokenizer, token_ids, stops, stopped_by_string=False) == whole
    count = first_stop(kind, token_ids, stops)
    if count is not None:
        text = finish_text(tokenizer, token_ids[:count], stops, stopped_by_string=True)
        assert not any(stop in text for stop in stops)
        assert any(decode(tokenizer, token_ids[:count]).startswith(text + stop) for stop in stops)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_ending_token_is_in_the_answer(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    token_ids = tokenizer.encode("The answer", add_special_tokens=False)
    word = decode(tokenizer, token_ids)
    for last in (tokenizer.eos_token_id, token_ids[0]):
        ended = [*token_ids, last]
        text = finish_text(tokenizer, ended, (), stopped_by_string=False, stopped_by_token=True)
        assert text == word
    assert finish_text(tokenizer, [], (), stopped_by_string=False) == ""


def test_spaces_before_punctuation_stay() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    token_ids = tokenizer.encode("yes , I do n't . ", add_special_tokens=False)
    assert decode(tokenizer, token_ids) == "yes , I do n't . "


class CountingTokenizer:
    """A real tokenizer that counts how many tokens it was asked to decode."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.lengths: list[int] = []

    def decode(self, token_ids: list[int], **options: bool) -> str:
        self.lengths.append(len(token_ids))
        return self.tokenizer.decode(token_ids, **options)


def test_the_work_per_token_does_not_grow_with_the_answer() -> None:
    counting = CountingTokenizer(TOKENIZERS["byte-level"])
    stops = StopStrings(counting, ("User:", "\n\n\n\n"))
    token_ids = TOKENIZERS["byte-level"].encode("code : r \n is yes " * 100)
    assert not any(stops.found(token_ids[:count]) for count in range(1, len(token_ids) + 1))
    assert max(counting.lengths) <= len(b"User:") + 1 + 4


def test_special_tokens_between_do_not_hide_a_stop() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    eos = tokenizer.eos_token_id
    token_ids = [*spelled("byte-level", "x#"), *[eos] * 50, *spelled("byte-level", "##")]
    checker = StopStrings(tokenizer, ("###",))
    assert not checker.found(token_ids[:-1])
    assert checker.found(token_ids)


def test_without_stops_or_tokens_nothing_is_found() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    assert not StopStrings(tokenizer, ()).found([5, 6])
    assert not StopStrings(tokenizer, ("a",)).found([])
