"""One prompt or many, as a caller gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def listed_prompts(prompts: object) -> Sequence[object]:
    """The prompts; a text, a dict or token ids alone are one."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not is_list(prompts):
        raise TypeError(f"prompts must be a list of prompts, not {kind_of(prompts)}")
    each: list[object] = list(prompts)  # type: ignore[call-overload]
    if each and all(type(token) is int for token in each):
        return [each]
    return each


def kind_of(value: object) -> str:
    """What it is, for messages."""
    return type(value).__name__


def is_list(value: object) -> bool:
    """True for what has many values; a text is one."""
    return hasattr(value, "__iter__") and not isinstance(value, (str, bytes, Mapping))
