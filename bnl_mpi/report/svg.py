"""Charts as SVG: lines, points and steps over linear or logarithmic axes.  Colours are the page's style sheet's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 46
MOST_POINTS = 1200
FEW_POINTS = 60
"""So few are drawn larger."""


@dataclass(frozen=True)
class Series:
    """One thing drawn: finite points of `x` and `y`; `style` is a class of the style sheet, s1 to s4."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "s1"
    kind: str = "line"
    """line, points, or steps."""


@dataclass(frozen=True)
class Axis:
    """An axis; `ticks` as (value, text) where the usual ones won't do."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Mark:
    """A line across the chart at `value`, of y, or of x where `upright`."""

    value: float
    text: str = ""
    upright: bool = False


def chart(title: str, told: str, x: Axis, y: Axis, series: Sequence[Series], marks: Sequence[Mark] = ()) -> str:
    """A chart; `told` says in words what it shows, for those who don't see it."""
    kept = [(one, *_drawable(one, x, y)) for one in series]
    to_x = _scale(x, [v for _, xs, _ in kept for v in xs], LEFT, WIDTH - RIGHT)
    to_y = _scale(y, [v for _, _, ys in kept for v in ys], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(told)}" class="chart">',
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc>",
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" class="plot"/>',
        *_ticks_x(x, to_x),
        *_ticks_y(y, to_y),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" class="label mid">{escape(x.label)}</text>',
        f'<text transform="translate(15 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" class="label mid">'
        f"{escape(y.label)}</text>",
        *(_mark(mark, to_x.place, to_y.place) for mark in marks),
        *(_draw(one, xs, ys, to_x.place, to_y.place) for one, xs, ys in kept),
        *_legend(series),
        "</svg>",
    ]
    return "".join(parts)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    place: Callable[[float], float]


def _drawable(one: Series, x: Axis, y: Axis) -> tuple[list[float], list[float]]:
    xs, ys = np.asarray(one.x, float), np.asarray(one.y, float)
    good = np.isfinite(xs) & np.isfinite(ys)
    for axis, values in ((x, xs), (y, ys)):
        if axis.log:
            good &= values > 0
    if one.kind == "points" and np.count_nonzero(good) > MOST_POINTS:
        every = np.flatnonzero(good)
        good = np.zeros(len(xs), bool)
        good[every[:: -(-len(every) // MOST_POINTS)]] = True
    return xs[good].tolist(), ys[good].tolist()


def _scale(axis: Axis, values: list[float], begin: float, end: float) -> _Scale:
    low = float(axis.low if axis.low is not None else min(values, default=1.0 if axis.log else 0.0))
    high = float(axis.high if axis.high is not None else max(values, default=10.0 if axis.log else 1.0))
    if axis.log:
        low, high = max(low, 1e-12), max(high, 1e-12)
        if high <= low * 1.01:
            low, high = low / 2, high * 2
        below, above = math.log(low), math.log(high)
        return _Scale(low, high, lambda v: begin + (end - begin) * (math.log(max(v, 1e-300)) - below) / (above - below))
    if high <= low:
        pad = abs(high) * 0.1 or 0.5
        low, high = low - pad, high + pad
    return _Scale(low, high, lambda v: begin + (end - begin) * (v - low) / (high - low))


def nice_ticks(low: float, high: float, *, log: bool, most: int = 6) -> list[float]:
    """Round values from low to high."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, -(-(last - first) // most))
        found = [10.0**k for k in range(first, last + 1, every) if low * 0.999 <= 10.0**k <= high * 1.001]
        if len(found) >= 2:
            return found
        return [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    step = (high - low) / most
    size = 10.0 ** math.floor(math.log10(step))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= step)
    begin = math.ceil(low / step - 1e-9)
    return [k * step for k in range(begin, math.floor(high / step + 1e-9) + 1)]


def number_text(value: float) -> str:
    """Short: 1200, 0.25, 1e6."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.6g}"


def _told_ticks(axis: Axis, scale: _Scale) -> list[tuple[float, str]]:
    if axis.ticks:
        inside = [(v, t) for v, t in axis.ticks if scale.low <= v <= scale.high]
        return inside
    return [(v, number_text(v)) for v in nice_ticks(scale.low, scale.high, log=axis.log)]


def _ticks_x(axis: Axis, scale: _Scale) -> list[str]:
    parts = []
    for value, text in _told_ticks(axis, scale):
        place = f"{scale.place(value):.1f}"
        parts.append(f'<path d="M{place} {TOP}V{HEIGHT - BOTTOM}" class="grid"/>')
        parts.append(f'<text x="{place}" y="{HEIGHT - BOTTOM + 16}" class="tick mid">{escape(text)}</text>')
    return parts


def _ticks_y(axis: Axis, scale: _Scale) -> list[str]:
    parts = []
    for value, text in _told_ticks(axis, scale):
        at = scale.place(value)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" class="tick end">{escape(text)}</text>')
    return parts


def _mark(mark: Mark, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    if mark.upright:
        return f'<path d="M{to_x(mark.value):.1f} {TOP}V{HEIGHT - BOTTOM}" class="mark"/>'
    at = to_y(mark.value)
    if not TOP - 1 <= at <= HEIGHT - BOTTOM + 1:
        return ""
    text = f'<text x="{WIDTH - RIGHT - 4}" y="{at - 4:.1f}" class="tick end">{escape(mark.text)}</text>'
    return f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" class="mark"/>{text}'


def _draw(one: Series, xs: Any, ys: Any, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    places = [
        (f"{to_x(x):.1f}", f"{min(max(to_y(y), TOP - 2), HEIGHT - BOTTOM + 2):.1f}")
        for x, y in zip(xs, ys, strict=True)
    ]
    if not places:
        return ""
    if one.kind == "points":
        size = "dots" if len(places) <= FEW_POINTS else "points"
        return f'<path class="{one.style} {size}" d="' + "".join(f"M{x} {y}h0" for x, y in places) + '"/>'
    if one.kind == "steps":
        path = f"M{places[0][0]} {places[0][1]}" + "".join(f"H{x}V{y}" for x, y in places[1:])
    else:
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
    dots = "".join(f"M{x} {y}h0" for x, y in places) if len(places) <= 40 and one.kind == "line" else ""
    return f'<path class="{one.style} line" d="{path}"/>' + (
        f'<path class="{one.style} dots" d="{dots}"/>' if dots else ""
    )


def _legend(series: Sequence[Series]) -> list[str]:
    parts, x = [], float(LEFT)
    for one in series:
        if not one.name:
            continue
        kind = "points" if one.kind == "points" else "line"
        path = f"M{x + 9} 15h0" if kind == "points" else f"M{x} 15h18"
        parts.append(f'<path class="{one.style} {kind} key" d="{path}"/>')
        parts.append(f'<text x="{x + 24}" y="19" class="tick">{escape(one.name)}</text>')
        x += 24 + 6.6 * len(one.name) + 18
    return parts
