"""What one step asks of a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What one step asks of the machine, counted in tokens, keys and query-key pairs."""

    tokens: int  # rows of the linear layers
    drawn: int  # rows of the output head behind which a token is drawn
    sequences: int  # chunks, each with metadata of its own
    own_keys: int = 0  # keys that decodes read alone
    shared_keys: int = 0  # distinct keys of shared segments, each read once for all decodes below
    shared_pairs: int = 0  # decodes times the shared keys above them
    prefill_tokens: int = 0
    prefill_pairs: int = 0  # prefill queries times the keys that they see
    scored: int = 0  # rows of the output head that tell of the prompts' own tokens

    @property
    def decodes(self) -> int:
        """Tokens that are decodes."""
        return self.tokens - self.prefill_tokens
