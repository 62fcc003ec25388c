"""What a run has cost so far, over all of its sessions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

WORK = "work"  # among the journal's facts


@dataclass(frozen=True, slots=True)
class Work:
    """Steps and seconds; those of a killed session count up to its last commit."""

    steps: int = 0
    preemptions: int = 0
    swapped_tokens: int = 0  # whose KV went to host memory
    restored_tokens: int = 0  # and came back
    drafted_tokens: int = 0  # guessed ahead and computed
    accepted_tokens: int = 0  # of them, what the model then drew
    memory_shortages: int = 0  # steps that were out of memory and ran in pieces
    plan_seconds: float = 0.0  # reading, tokenizing and planning
    load_seconds: float = 0.0
    run_seconds: float = 0.0

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Work:
        """What the journal knows of it."""
        return cls(**facts.get(WORK, {}))

    def __add__(self, other: Work) -> Work:
        return Work(**{name: each + getattr(other, name) for name, each in asdict(self).items()})

    def in_facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts with this work in them."""
        return {**facts, WORK: asdict(self)}
