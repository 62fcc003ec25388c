"""Generated tokens as text, and the stop strings in it.

Knows tokenizers; knows nothing of tensors, models or sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """What this file needs of a transformers tokenizer."""

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool,
        clean_up_tokenization_spaces: bool,
    ) -> str:
        """Return the text of the tokens."""
        ...


# What a decoder writes for bytes that are no whole character.
_BROKEN = "\ufffd"

# A character of UTF-8 has at most 4 bytes, and a token may be a single byte.
_CHARACTER_TOKENS = 4


class StopStrings:
    """Tells, token by token, when a generated text contains one of its stop strings.

    Holds nothing of any sequence, only what it learned about single tokens: share one object
    between all sequences with the same stop strings.
    """

    def __init__(self, tokenizer: Detokenizer, stops: tuple[str, ...]) -> None:
        assert all(stops), f"an empty stop string in {stops!r} would end every text at once"
        self.stops = stops
        self._tokenizer = tokenizer
        self._last_characters = frozenset(stop[-1] for stop in stops)
        # A token with any text has a byte of it, so that this many tokens, the newest besides,
        # hold the longest stop string. The rest is room for what a decoder changes at the start
        # of a text: the end of a broken character, a space that it takes away.
        longest_bytes = max((len(stop.encode()) for stop in stops), default=0)
        self._tail_tokens = longest_bytes + 1 + _CHARACTER_TOKENS
        self._pieces: dict[int, str] = {}
        self._may_end_stop: dict[int, bool] = {}

    def found(self, token_ids: Sequence[int]) -> bool:
        """Return whether the newest of the generated tokens completes a stop string.

        Called after every new token with all generated tokens (not the prompt's). Looks at the
        newest alone where it cannot end a stop string, else at a tail whose length depends on the
        stop strings only; the whole text is decoded once, to confirm.
        """
        if not self.stops or not len(token_ids):
            return False
        newest = int(token_ids[-1])
        may_end = self._may_end_stop.get(newest)
        if may_end is None:
            may_end = self._may_end_stop[newest] = self._can_end_stop(newest)
        if not may_end:
            return False
        return self._in_tail(token_ids) and self._in_text(token_ids)

    def _can_end_stop(self, token_id: int) -> bool:
        piece = self._piece(token_id)
        if any(_BROKEN in stop for stop in self.stops):
            return bool(piece)
        return _BROKEN in piece or not self._last_characters.isdisjoint(piece)

    def _piece(self, token_id: int) -> str:
        """Return the token's text, twice: at the start of a text alone it may lose its space."""
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._pieces[token_id] = decode(self._tokenizer, [token_id, token_id])
        return piece

    def _in_tail(self, token_ids: Sequence[int]) -> bool:
        start = len(token_ids)
        wanted = self._tail_tokens
        while start > 0 and wanted > 0:
            start -= 1
            wanted -= bool(self._piece(int(token_ids[start])))  # special tokens have no text
        # Where text is spelled in single bytes, some decoders break a whole run of bytes if its
        # first character is cut. One of the next starts to the left is the start of a character.
        tries = _CHARACTER_TOKENS
        while not self._in_text(token_ids[start:]):
            tries -= 1
            if start == 0 or tries == 0 or _BROKEN not in self._piece(int(token_ids[start])):
                return False
            start -= 1
        return True

    def _in_text(self, token_ids: Sequence[int]) -> bool:
        text = decode(self._tokenizer, token_ids)
        return any(stop in text for stop in self.stops)


def finish_text(
    tokenizer: Detokenizer,
    token_ids: Sequence[int],
    stops: tuple[str, ...],
    *,
    stopped_by_string: bool,
    stopped_by_token: bool = False,
) -> str:
    """Return the answer's text: no special tokens, nothing of what ended it.

    ``stopped_by_string``: the text is cut before the first place where any of the stop strings
    begins. ``stopped_by_token``: the last token is an eos or stop token and is left out, special
    or not.
    """
    text = decode(tokenizer, token_ids[: len(token_ids) - stopped_by_token])
    if not stopped_by_string:
        return text
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    assert places, f"none of the stop strings {stops!r} is in the text"
    return text[: min(places)]


def decode(tokenizer: Detokenizer, token_ids: Sequence[int]) -> str:
    """Return the text of generated tokens, without special tokens and otherwise untouched."""
    return tokenizer.decode(
        [int(token_id) for token_id in token_ids],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
