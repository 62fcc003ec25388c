"""A prompt's text gives its tokens again where a server tokenizes it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from oracle import load_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from batchpipe.demo.prompt import MODEL_DIR
from batchpipe.integrations.prompt_text import prompt_text


@given(st.text(max_size=40))
def test_text_survives_the_way_there_and_back(text: str) -> None:
    tokenizer = load_tokenizer(str(MODEL_DIR))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer(prompt_text(tokenizer, ids))["input_ids"] == ids


def test_what_the_tokenizer_puts_before_every_text_is_left_to_the_server() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    first = tokenizer.convert_ids_to_tokens(1)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, 1)]
    )
    ids = tokenizer("Tell them")["input_ids"]
    assert ids[0] == 1
    assert prompt_text(tokenizer, ids) == "Tell them"
    assert tokenizer(prompt_text(tokenizer, ids))["input_ids"] == ids
    assert prompt_text(tokenizer, ids[1:]) == "Tell them"  # it was asked without
