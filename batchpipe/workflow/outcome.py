"""What a step made of a row: its values, or why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """Values by field, all of which JSON can hold; or an error, then there are none."""

    values: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0  # of waiting for it
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
