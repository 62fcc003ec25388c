"""Rows of a table that come together by the values of some columns, once all of them are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchpipe.workflow.lowering.fields import key_field
from batchpipe.workflow.operators.rows import group_key
from batchpipe.workflow.steps import Reduce


class Groups:
    """The groups of one group-by, as far as rows have brought something to them."""

    def __init__(self, step: Reduce) -> None:
        self.step = step
        self._keys = [key_field(column) for column in step.by]
        self._brought: dict[int, list[list[Any]]] = {}  # by ordinal, of rows that bring anything

    def bring(self, ordinal: int, members: list[list[Any]]) -> None:
        """The row of the table brings these, which it has brought before or never."""
        if members:
            self._brought[ordinal] = members

    def made(self) -> list[tuple[dict[str, Any], str | None]]:
        """Values of each group and why it has none, in the order of their first rows.

        A row whose group nobody knows is a group of its own, so that it is told.
        """
        found: dict[str, tuple[Sequence[Any], list[Any], list[str]]] = {}
        for ordinal in sorted(self._brought):
            for nth, (group, item, why) in enumerate(self._brought[ordinal]):
                name = f"{ordinal} {nth}" if group is None else group_key(group)
                keys = [None] * len(self._keys) if group is None else group
                _, items, causes = found.setdefault(name, (keys, [], []))
                items.append(item)
                causes += [] if why is None else [why]
        return [
            (
                {**dict(zip(self._keys, keys, strict=True)), "items": [] if causes else items},
                causes[0] if causes else None,
            )
            for keys, items, causes in found.values()
        ]
