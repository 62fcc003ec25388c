"""What a session's steps did over its time, in a bounded number of points."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

MOST_POINTS = 2000


@dataclass(frozen=True, slots=True)
class Point:
    """How far a session is; the curve between two points is their difference."""

    seconds: float  # since it began to answer
    steps: int = 0
    prefill_tokens: int = 0  # prompt tokens computed
    decode_tokens: int = 0  # answer tokens drawn
    kv_tokens: int = 0  # the most that KV memory held since the point before
    rows: int = 0  # finished by this session


COLUMNS = tuple(field.name for field in fields(Point))


class Timeline:
    """Takes a point for every step, and keeps each 2nd, 4th, 8th of them as they become many."""

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        assert most_points >= 2
        self._most = most_points
        self._points: list[Point] = []
        self._each = 1  # so many steps are one point
        self._since = 0  # steps behind the last point
        self._kv_tokens = 0  # the most in them
        self._now: Point | None = None  # the last of them

    def step(self, point: Point) -> None:
        """A step has passed, and the session is that far."""
        self._since += 1
        self._kv_tokens = max(self._kv_tokens, point.kv_tokens)
        self._now = point
        if self._since >= self._each:
            self._points.append(replace(point, kv_tokens=self._kv_tokens))
            self._since = self._kv_tokens = 0
            if len(self._points) >= self._most:
                self._thin_out()

    def points(self) -> list[Point]:
        """All that is kept, up to the last step."""
        if not self._since or self._now is None:
            return list(self._points)
        return [*self._points, replace(self._now, kv_tokens=self._kv_tokens)]

    def _thin_out(self) -> None:
        """Two points become one; an odd one at the end stays open."""
        points, self._each = self._points, 2 * self._each
        if len(points) % 2:
            last = points.pop()
            self._since, self._kv_tokens, self._now = self._each // 2, last.kv_tokens, last
        self._points = [
            replace(second, kv_tokens=max(first.kv_tokens, second.kv_tokens))
            for first, second in zip(points[::2], points[1::2], strict=True)
        ]
