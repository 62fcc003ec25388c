"""A workflow's steps as boxes, each right of those that it needs, and the lines between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOX_WIDTH, BOX_HEIGHT = 168, 86
GAP_ACROSS, GAP_DOWN = 56, 18


@dataclass(frozen=True, slots=True)
class Box:
    """One step, where it stands and what it did."""

    name: str
    kind: str
    level: str
    models: tuple[str, ...]
    left: int
    top: int
    figures: Mapping[str, Any]  # of `StepTally`; empty before the first commit

    @property
    def reused_share(self) -> float | None:
        """Of its prompt tokens, those that were not computed; None where there were none."""
        prompt_tokens = self.figures.get("prompt_tokens")
        return self.figures["cached_tokens"] / prompt_tokens if prompt_tokens else None


@dataclass(frozen=True, slots=True)
class Line:
    """From a step to one that needs it, as an SVG path."""

    path: str
    title: str


@dataclass(frozen=True, slots=True)
class Graph:
    """All boxes and lines, and how large the picture is."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: int
    height: int


def laid_out(steps: Sequence[Mapping[str, Any]], by_step: Mapping[str, Mapping[str, Any]]) -> Graph:
    """The steps from left to right; each column has those whose longest way there is as long."""
    columns: dict[str, int] = {}
    boxes: dict[str, Box] = {}
    filled: dict[int, int] = {}
    for step in steps:  # each behind those that it needs
        column = max((columns[name] + 1 for name in step["needs"]), default=0)
        columns[step["name"]] = column
        row = filled[column] = filled.get(column, -1) + 1
        boxes[step["name"]] = Box(
            step["name"],
            step["kind"],
            step["makes"] or step["level"],
            tuple(step["models"]),
            column * (BOX_WIDTH + GAP_ACROSS) + 1,
            row * (BOX_HEIGHT + GAP_DOWN) + 1,
            by_step.get(step["name"], {}),
        )
    lines = [_line(boxes[name], boxes[step["name"]]) for step in steps for name in step["needs"]]
    width = max((box.left + BOX_WIDTH + 1 for box in boxes.values()), default=0)
    height = max((box.top + BOX_HEIGHT + 1 for box in boxes.values()), default=0)
    return Graph(tuple(boxes.values()), tuple(lines), width, height)


def _line(source: Box, target: Box) -> Line:
    x0, y0 = source.left + BOX_WIDTH, source.top + BOX_HEIGHT // 2
    x1, y1 = target.left, target.top + BOX_HEIGHT // 2
    bend = max(GAP_ACROSS // 2, (x1 - x0) // 2)
    path = f"M{x0},{y0} C{x0 + bend},{y0} {x1 - bend},{y1} {x1},{y1}"
    return Line(path, f"{source.name} to {target.name}")
