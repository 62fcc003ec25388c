"""Guesses what comes next by what came next before (prompt lookup), and checks guesses.

Answers often repeat their prompt or themselves. Knows tokens alone: no model, no tensor, no cost.
"""

from __future__ import annotations

from itertools import takewhile

from batchpipe.planner.request import Prompts
from batchpipe.planner.schedule.segment import Draft, Sequence
from batchpipe.planner.schedule.speculation import MOST_MATCHED, Guess

SEARCHED_TOKENS = 4096  # of a prompt, its last ones: each takes 0.5 kB and half a microsecond


class PromptLookup:
    """Guesses that the last tokens are followed by what followed them when they were last there.

    The longest match counts, of up to `MOST_MATCHED` tokens. A step costs what is new in it: the
    places of all runs of tokens are kept, and each new token adds one run of each length.

    Args:
        prompts: what the sequences begin with, by their index
    """

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self._texts: dict[int, _Text] = {}  # by prompt, of those that were asked for

    def guess(self, sequence: Sequence, most: int) -> Guess | None:
        """Up to ``most`` tokens that may come next; None where the last token is a new one."""
        text = self._texts.get(sequence.index)
        if text is None:
            prompt = self.prompts[sequence.index][-SEARCHED_TOKENS:]
            text = self._texts[sequence.index] = _Text(prompt.tolist())
        text.extend(sequence.answer[text.answer_tokens :])
        return text.guess(most)

    def forget(self, sequence: Sequence) -> None:
        """The sequence has its answer."""
        self._texts.pop(sequence.index, None)


class _Text:
    """A prompt and the answer to it so far, and where each short run of tokens was last."""

    __slots__ = ("_followers", "_prompt_tokens", "_tokens")

    def __init__(self, prompt: list[int]) -> None:
        self._prompt_tokens = len(prompt)
        self._tokens: list[int] = []
        # By length less one: a run of tokens -> the place behind it. What is last has none yet.
        self._followers: list[dict[tuple[int, ...], int]] = [{} for _ in range(MOST_MATCHED)]
        self.extend(prompt)

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answer that are in here."""
        return len(self._tokens) - self._prompt_tokens

    def extend(self, tokens: list[int]) -> None:
        """The text goes on with these."""
        known = len(self._tokens)
        self._tokens += tokens
        for length, followers in enumerate(self._followers, start=1):
            first = max(known, length)  # the first new place with so many tokens before it
            before = self._tokens[first - length :]
            runs = zip(*(before[shift:] for shift in range(length)), strict=False)
            followers.update(zip(runs, range(first, len(self._tokens)), strict=False))

    def guess(self, most: int) -> Guess | None:
        """What followed the longest run that the text ends with, round and round if it is short."""
        for matched in range(MOST_MATCHED, 0, -1):
            place = self._followers[matched - 1].get(tuple(self._tokens[-matched:]))
            if place is not None:
                found = self._tokens[place : place + most]
                # Where what was found reaches the end, the text repeats itself.
                while len(found) < most:
                    found += found[: most - len(found)]
                return Guess(tuple(found), matched)
        return None


def kept(drawn: list[int], draft: Draft | None) -> list[int]:
    """The drawn tokens that count: the first, and each behind a guess that is what was drawn."""
    if draft is None:
        return drawn
    assert len(drawn) == len(draft.tokens) + 1, f"{len(drawn)} tokens drawn for {draft}"
    pairs = zip(drawn, draft.tokens, strict=False)
    right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return drawn[: right + 1]
