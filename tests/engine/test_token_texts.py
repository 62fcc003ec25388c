"""Tokens are told as text: joined, they are the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import EOS_TOKEN_ID, make_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from batchpipe.engine.token_texts import TokenTexts


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@given(text=st.text(st.characters(max_codepoint=0x7F)) | st.text("The parcel was \n"))
def test_the_texts_of_the_tokens_are_the_text(tokenizer: Any, text: str) -> None:
    texts = TokenTexts(tokenizer)
    assert "".join(map(texts.text, tokenizer.encode(text))) == text


def test_special_tokens_have_their_names(tokenizer: Any) -> None:
    texts = TokenTexts(tokenizer)
    assert texts.text(EOS_TOKEN_ID) == "<|endoftext|>"


def test_a_space_is_kept_and_a_single_byte_is_no_character() -> None:
    """As Llama's SentencePiece has them: a text loses its first space, and bytes have names."""
    vocabulary = {"<unk>": 0, "▁The": 1, "<0xE6>": 2, "é": 3}
    pieces = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    pieces.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    texts = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=pieces))
    assert texts.text(1) == " The"
    assert texts.text(2) == "\N{REPLACEMENT CHARACTER}"
    assert texts.text(3) == "é"
