"""What single tokens say. Knows tokenizers and nothing else."""

from __future__ import annotations

from typing import Any


class TokenTexts:
    """The texts of a tokenizer's tokens, each looked up once."""

    def __init__(self, tokenizer: Any) -> None:  # transformers PreTrainedTokenizerBase
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def text(self, token_id: int) -> str:
        """What the token adds to a text, special tokens too; what is no character is U+FFFD."""
        text = self._texts.get(token_id)
        if text is None:
            # Said twice: at the start of a text a token may lose its space.
            alone, twice = self._decoded([token_id]), self._decoded([token_id, token_id])
            text = self._texts[token_id] = twice[len(alone) :]
        return text

    def _decoded(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text
