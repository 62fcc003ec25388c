"""A prompt's tokens as the text that a server makes the same tokens of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def prompt_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of the prompt, without the tokens that a tokenizer puts before every text.

    The server's own puts them there again.
    """
    added = tokenizer("", add_special_tokens=True)["input_ids"]
    start = len(added) if list(token_ids[: len(added)]) == list(added) else 0
    text: str = tokenizer.decode(
        list(token_ids[start:]), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text
