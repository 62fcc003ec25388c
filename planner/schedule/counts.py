"""What a run has done so far; the scheduler counts it, or the engine that brings its own."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(slots=True)
class Counts:
    """What a run did, in tokens and steps."""

    steps: int = 0
    computed_prompt_tokens: int = 0
    completion_tokens: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0  # computed once more, after a preemption or an eviction
    evicted_tokens: int = 0
    swapped_tokens: int = 0  # copied to host memory when they left the device
    restored_tokens: int = 0  # copied back
    peak_kv_tokens: int = 0
    drafted_tokens: int = 0  # guessed and computed
    accepted_tokens: int = 0  # of them, what the model then drew

    def __add__(self, other: Counts) -> Counts:
        """Of both, one after the other: together they held what the larger peak was."""
        both = Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))
        both.peak_kv_tokens = max(self.peak_kv_tokens, other.peak_kv_tokens)
        return both
