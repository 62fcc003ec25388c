"""The timeline of a run's sessions as plots above one another, over the time that it answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchpipe.report.scale import Axis, area, axis, line
from batchpipe.running.session.record import Session

MOST_COLUMNS = 240
TOLD_ROWS = 12  # of the table beside the plots

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layer:
    """One quantity of a plot, as a path and as its values by column."""

    name: str
    kind: str  # the style: "prefill", "decode", "kv", "rows"
    path: str
    values: tuple[float, ...]
    is_line: bool = False


@dataclass(frozen=True, slots=True)
class TimePlot:
    """One or two quantities over time."""

    name: str
    unit: str
    layers: tuple[Layer, ...]
    y: Axis
    limit: float | None = None  # a line across: the most that there could be


@dataclass(frozen=True, slots=True)
class Timelines:
    """All plots over the seconds in which sessions answered, one session behind the other."""

    plots: tuple[TimePlot, ...]
    x: Axis  # seconds
    starts: tuple[float, ...]  # of the sessions after the first, in seconds
    edges: tuple[float, ...]  # of the columns, in seconds; the first is 0

    @property
    def told(self) -> list[list[float]]:
        """Some columns as a table: seconds at their ends, then every layer's value."""
        count = len(self.edges) - 1
        chosen = sorted({int(place) for place in np.linspace(0, count - 1, min(TOLD_ROWS, count))})
        layers = [layer for plot in self.plots for layer in plot.layers]
        return [
            [self.edges[place + 1], *(layer.values[place] for layer in layers)] for place in chosen
        ]


@dataclass(frozen=True, slots=True, eq=False)
class _Curves:
    """What all sessions did, added up; the first point of each stands where it begins."""

    seconds: Floats
    steps: Floats
    prefill: Floats
    decode: Floats
    rows: Floats
    kv: Floats  # the most since the point before


def timelines(sessions: Sequence[Session]) -> Timelines | None:
    """The plots; None where no session kept a timeline."""
    told = [session for session in sessions if session.points]
    if not told:
        return None
    curves, starts = _joined(told)
    count = int(min(MOST_COLUMNS, max(1, len(curves.seconds) - len(told))))
    edges = np.linspace(0.0, float(curves.seconds[-1]), count + 1)
    x = axis(float(curves.seconds[-1]), ticks=6, ends_round=False)
    capacity = max(int(session.facts.get("kv_tokens") or 0) for session in told)
    plots = (
        _per_step(curves, edges),
        _per_second(curves, edges),
        _kv(curves, edges, capacity),
        _rows(curves, edges),
    )
    return Timelines(
        tuple(plot for plot in plots if plot is not None),
        x,
        tuple(starts[1:]),
        tuple(edges.tolist()),
    )


def _joined(sessions: Sequence[Session]) -> tuple[_Curves, list[float]]:
    pieces: list[Floats] = []
    starts: list[float] = []
    end = np.zeros(5)
    for session in sessions:
        points = np.array(
            [
                (each.seconds, each.steps, each.prefill_tokens, each.decode_tokens, each.rows)
                for each in session.points
            ],
            dtype=np.float64,
        )
        kv = np.array([0, *(each.kv_tokens for each in session.points)], dtype=np.float64)
        starts.append(float(end[0]))
        piece = np.vstack([np.zeros(5), points]) + end
        pieces.append(np.column_stack([piece, kv]))
        end = piece[-1]
    seconds, steps, prefill, decode, rows, kv = np.vstack(pieces).T
    seconds = np.maximum.accumulate(seconds)
    if seconds[-1] <= 0:
        seconds = seconds + np.arange(len(seconds)) * 1e-6
    return _Curves(seconds, steps, prefill, decode, rows, kv), starts


def _gained(curves: _Curves, quantity: Floats, edges: Floats) -> Floats:
    """How much of it there was between each two edges; all of it is in one column or another."""
    return np.diff(np.interp(edges, curves.seconds, quantity))


def _per_step(curves: _Curves, edges: Floats) -> TimePlot | None:
    steps = _gained(curves, curves.steps, edges)
    if not steps.sum():
        return None  # a server does not tell its steps
    per = [
        _gained(curves, each, edges) / np.maximum(steps, 1e-9)
        for each in (curves.prefill, curves.decode)
    ]
    return _stacked("Tokens of a step", "tokens", per[0], per[1])


def _per_second(curves: _Curves, edges: Floats) -> TimePlot:
    seconds = np.diff(edges)
    prefill, decode = (
        _gained(curves, each, edges) / seconds for each in (curves.prefill, curves.decode)
    )
    return _stacked("Throughput", "tokens/s", prefill, decode)


def _stacked(name: str, unit: str, prefill: Floats, decode: Floats) -> TimePlot:
    both = prefill + decode
    y = axis(float(both.max()), ticks=3)
    below, above = [y.share(each) for each in decode], [y.share(each) for each in both]
    layers = (
        Layer("prompt tokens computed", "prefill", area(above, below), tuple(prefill.tolist())),
        Layer("answer tokens", "decode", area(below), tuple(decode.tolist())),
    )
    return TimePlot(name, unit, layers, y)


def _kv(curves: _Curves, edges: Floats, capacity: int) -> TimePlot | None:
    if not curves.kv.any():
        return None
    firsts = np.searchsorted(curves.seconds, edges[:-1], side="right")
    lasts = np.searchsorted(curves.seconds, edges[1:], side="left")
    held = np.array(
        [
            curves.kv[min(first, len(curves.kv) - 1) : last + 1].max(initial=0.0)
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
        ]
    )
    # A memory far larger than what is held would flatten the curve.
    limit = float(capacity) if 0 < capacity <= 4 * held.max() else None
    y = axis(max(float(held.max()), limit or 0.0), ticks=3)
    layer = Layer("KV memory held", "kv", area([y.share(e) for e in held]), tuple(held.tolist()))
    return TimePlot("KV memory", "tokens", (layer,), y, limit)


def _rows(curves: _Curves, edges: Floats) -> TimePlot:
    done = np.interp(edges[1:], curves.seconds, curves.rows)
    y = axis(float(done.max()), ticks=3)
    path = line([y.share(each) for each in done])
    layer = Layer("rows finished", "rows", path, tuple(done.tolist()), is_line=True)
    return TimePlot("Rows finished", "rows", (layer,), y)
