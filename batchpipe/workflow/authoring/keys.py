"""The keys of one step as somebody wrote them, and what kinds of values they may have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from batchpipe.rows.words import listed, shown
from batchpipe.workflow.authoring.names import Fault, meant


class Keys:
    """The keys of one step; `Fault` where one is unknown or its value makes no sense.

    A value of None counts as not given.
    """

    def __init__(self, kind: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in known:
                raise Fault(
                    f"{kind} has no key {name}{meant(name, known)}; its keys are {listed(known)}",
                    name,
                )

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def get(self, name: str, default: Any = None) -> Any:
        """The value, whatever it is."""
        return self._given.get(name, default)

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self.get(name, default)
        if value is None:
            raise Fault(f"{name} is missing; it must be a text", name)
        if not isinstance(value, str) or not value.strip():
            raise Fault(f"{name} is {shown(value)}; it must be a text that is not empty", name)
        return value

    def texts(self, name: str, what: str) -> tuple[str, ...]:
        """One text or several, none empty and none twice."""
        value = self.get(name, ())
        found = (value,) if isinstance(value, str) else value
        if not isinstance(found, (list, tuple)) or not all(
            isinstance(each, str) and each for each in found
        ):
            raise Fault(f"{name} is {shown(value)}; it must be a list of {what}", name)
        for place, each in enumerate(found):
            if each in found[:place]:
                raise Fault(f"{name} has {each} twice; give it once", name)
        return tuple(found)

    def word(self, name: str, *allowed: str) -> str:
        """One of the words, the first where nothing is said."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise Fault(f"{name} is {shown(value)}; it must be {' or '.join(allowed)}", name)
        return str(value)

    def count(self, name: str, default: int, least: int = 1) -> int:
        """A whole number."""
        value = self.get(name, default)
        if type(value) is not int or value < least:
            raise Fault(
                f"{name} is {shown(value)}; it must be a whole number of {least} or more", name
            )
        return value

    def number(self, name: str, default: float | None, most: float = math.inf) -> float | None:
        """A number above 0, or what is there where nothing is said."""
        value = self.get(name, default)
        if value is None:
            return None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or math.isinf(value) or not 0 < value <= most:
            limit = "" if most == math.inf else f" and up to {most:g}"
            raise Fault(f"{name} is {shown(value)}; it must be a number above 0{limit}", name)
        return float(value)

    def expressions(self, name: str) -> dict[str, str]:
        """Expressions by name."""
        value = self.get(name, {})
        if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
            raise Fault(f"{name} is {shown(value)}; it must be names with expressions", name)
        return {each: self._expression(f"{name}.{each}", value[each]) for each in value}

    def _expression(self, name: str, value: object) -> str:
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, (bool, int, float)):
            return json.dumps(value)
        raise Fault(f"{name} is {shown(value)}; it must be an expression such as step.output", name)
