"""Axes that end at round figures."""

from __future__ import annotations

from dataclasses import dataclass

HEIGHT = 100.0  # of a plot, in its own units: the page stretches them
WIDTH = 1000.0
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Axis:
    """From 0 to a round figure, with a tick at each of a few more."""

    most: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where the value lies, from 0 to 1."""
        return min(1.0, max(0.0, value / self.most))

    def percent(self, value: float) -> str:
        """The same as a length of CSS."""
        return f"{100 * self.share(value):.3f}%"


def axis(most: float, *, ticks: int = 4, ends_round: bool = True) -> Axis:
    """An axis that reaches as far as ``most``, and to the next tick where it ends round."""
    most = most if most > 0 else 1.0
    power = 1e-9
    while power * 10 * ticks < most:
        power *= 10
    step = next(power * each for each in STEPS if power * each * ticks >= most * (1 - 1e-9))
    count = 0
    while (count + 1) * step <= most * (1 + 1e-9):
        count += 1
    if ends_round and count * step < most * (1 - 1e-9):
        count += 1
    end = count * step if ends_round else most
    return Axis(end, tuple(round(place * step, 10) for place in range(count + 1)))


def area(tops: list[float], bottoms: list[float] | None = None) -> str:
    """The path of columns that stand side by side; both are shares of the height."""
    width = WIDTH / max(1, len(tops))
    floor = bottoms or [0.0] * len(tops)
    there = [_corner(place, width, top) for place, top in enumerate(tops)]
    back = [_corner(place, width, low)[::-1] for place, low in enumerate(floor)]
    points = [point for corner in there for point in corner]
    points += [point for corner in reversed(back) for point in corner]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z" if points else ""


def line(shares: list[float]) -> str:
    """The path through the right end of each column, from 0."""
    width = WIDTH / max(1, len(shares))
    points = [(0.0, HEIGHT)]
    points += [((place + 1) * width, (1 - share) * HEIGHT) for place, share in enumerate(shares)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _corner(place: int, width: float, share: float) -> list[tuple[float, float]]:
    y = (1 - share) * HEIGHT
    return [(place * width, y), ((place + 1) * width, y)]
