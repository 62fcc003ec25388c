"""What an engine said to one prompt. Knows nothing of tensors, so that every engine can say it."""

from __future__ import annotations

from dataclasses import dataclass, field

from batchpipe.engine.logprobs import Logprobs

ENDED_ITSELF = frozenset({"eos", "stop_string", "complete"})  # its length says how long such are


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to one prompt of the plan, as tokens or as text, or why it said nothing.

    An engine that knows tokens gives them, and the text follows from them. A server may give text
    alone, and how many tokens it had.
    """

    index: int  # of the prompt in the plan
    token_ids: tuple[int, ...]  # with the token that ended it
    # "eos", "stop_string", "complete" (its constraint allows no more) or "length"; of no answer
    # "nan", "stuck" (no token is what its constraint wants) or "fault"
    ended_by: str
    cached_tokens: int  # prompt tokens that were not computed on its behalf
    text: str | None = None  # without what ended it; None: what the tokens say
    text_tokens: int = 0  # of a text whose token ids are not known
    fault: str | None = None  # the sentence, where a fault ended it
    logprobs: Logprobs | None = None  # of its tokens, where they are asked for
    prompt_logprobs: Logprobs | None = None  # of the prompt's, from the first that is asked for
    seconds: float | None = field(default=None, compare=False)  # from its admission, where known

    @classmethod
    def failed(cls, index: int, sentence: str) -> Answer:
        """No answer to this prompt, with the reason."""
        return cls(index, (), "fault", 0, fault=sentence)

    @property
    def tokens(self) -> int:
        """Tokens that it has."""
        return len(self.token_ids) or self.text_tokens

    @property
    def ended_itself(self) -> bool:
        """True where its length says how long such answers are."""
        return self.ended_by in ENDED_ITSELF
