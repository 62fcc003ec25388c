"""The top of the prefix tree as a picture: prompts side by side, tokens from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchpipe.report.scale import HEIGHT, WIDTH, Axis, axis
from batchpipe.running.session.record import Session, Shared

TALLEST = 340  # pixels
THINNEST = 1.5
TOLD_ROWS = 15


@dataclass(frozen=True, slots=True)
class Box:
    """A shared run of tokens, as wide as the prompts that have it and as tall as it is long."""

    left: str  # of the width
    width: str
    top: float  # pixels
    height: float
    shade: int
    shared: Shared
    is_labelled: bool

    @property
    def prompts(self) -> int:
        """That begin with it and what is above it."""
        return self.shared.last - self.shared.first

    @property
    def tokens(self) -> int:
        """Of this run alone."""
        return self.shared.end - self.shared.start

    @property
    def saved_tokens(self) -> int:
        """That need no computing."""
        return self.tokens * (self.prompts - 1)


@dataclass(frozen=True, slots=True)
class Icicle:
    """All boxes, and behind them the outline of whole prompts."""

    boxes: tuple[Box, ...]
    outline: str  # the path of mean lengths
    prompts: int
    y: Axis  # tokens
    height: int = TALLEST

    @property
    def told(self) -> list[Box]:
        """Those that save most."""
        return sorted(self.boxes, key=lambda box: -box.saved_tokens)[:TOLD_ROWS]


def icicle(sessions: Sequence[Session]) -> Icicle | None:
    """The tree of the session that planned most prompts; None where none is kept."""
    told = [session for session in sessions if session.mean_tokens]
    if not told:
        return None
    session = max(told, key=lambda each: int(each.facts.get("prompts") or 0))
    prompts = max(1, int(session.facts.get("prompts") or 1))
    ends = [each.end for each in session.shared]
    y = axis(float(max([*session.mean_tokens, *ends])), ticks=4, ends_round=False)
    depths: list[int] = []
    boxes = []
    for each in session.shared:
        depths.append(depths[each.above] + 1 if each.above >= 0 else 0)
        boxes.append(_box(each, prompts, y, depths[-1]))
    return Icicle(tuple(boxes), _outline(session.mean_tokens, y), prompts, y)


def _box(shared: Shared, prompts: int, y: Axis, depth: int) -> Box:
    width = (shared.last - shared.first) / prompts
    height = max(THINNEST, (y.share(shared.end) - y.share(shared.start)) * TALLEST)
    return Box(
        left=f"{100 * shared.first / prompts:.3f}%",
        width=f"{100 * width:.3f}%",
        top=round(y.share(shared.start) * TALLEST, 1),
        height=round(height, 1),
        shade=depth % 4,
        shared=shared,
        is_labelled=width >= 0.08 and height >= 16,
    )


def _outline(means: Sequence[int], y: Axis) -> str:
    """From the top down: the prompts hang from there."""
    width = WIDTH / len(means)
    points = [(0.0, 0.0)]
    for place, mean in enumerate(means):
        low = y.share(mean) * HEIGHT
        points += [(place * width, low), ((place + 1) * width, low)]
    points.append((WIDTH, 0.0))
    return "M" + "L".join(f"{x:.1f} {low:.1f}" for x, low in points) + "Z"
