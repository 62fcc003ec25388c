"""What single tokens say, as text and as bytes. Knows tokenizers and nothing else."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_BROKEN = "\ufffd"
_ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # as SentencePiece writes a byte that is no token


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

    def bytes_of(self, token_id: int) -> bytes:
        """The token's own bytes, also where they are only a part of a character."""
        text = self.text(token_id)
        if _BROKEN not in text:
            return text.encode("utf-8", "surrogatepass")
        token = str(self._tokenizer.convert_ids_to_tokens(token_id))
        one = _ONE_BYTE.fullmatch(token)
        if one is not None:
            return bytes([int(one[1], 16)])
        byte_of = _byte_of_character()
        if all(character in byte_of for character in token):
            return bytes(byte_of[character] for character in token)
        return text.encode("utf-8", "surrogatepass")

    def _decoded(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


@cache
def _byte_of_character() -> dict[str, int]:
    """How byte-level BPE (GPT-2) writes bytes: printable ones as they are, others from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }
