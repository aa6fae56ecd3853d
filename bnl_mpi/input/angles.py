"""Rotation angles to the last digit: those that a scan was set to, from the single-precision ones that a file tells.

A single tells an angle of 300 degrees to 3e-5 degrees only, and a difference of two no better.  But the angles of a
scan lie on a line, which many rounded ones fix far more closely than any of them: its start and width are taken
from what else the file tells, or are the simplest numbers whose line rounds to what is stored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from ..pixels.middle import median

Angles = npt.NDArray[np.float64]

START_DIGITS, WIDTH_DIGITS = 6, 5
"""A single whose shortest decimal has no more digits was set to that; one in a hundred widths is so by chance."""
DECIMALS = 4
"""Digits after the point of a width or start that is guessed."""
LARGEST_DENOMINATOR = 1000
CHANCE = 1e-3
"""A fraction is believed where one as simple would lie between two bounds no more often than that."""
ARITHMETIC = 4.0
"""Half units in the last place that angles are off which were not only stored but computed in single precision."""
LEAVES_NO_DOUBT = 100
"""So many rounded angles don't lie on a line by chance."""
DOUBLES = 1e-15
"""Of a double, what arithmetic leaves undetermined."""
BISECTIONS = 60
LARGEST = 1e30
"""No angle, and a single still."""
JUMP = 0.5
"""A step that differs from the usual one by more than this part of it begins another line."""


@dataclass(frozen=True)
class Told:
    """What the file tells of a scan besides its angles, in degrees."""

    start: float | None = None
    width: float | None = None


def halves(values: npt.NDArray[np.floating]) -> Angles:
    """Half of each value's unit in the last place, in its own type."""
    return np.asarray(np.spacing(np.abs(values)), dtype=np.float64) / 2


def are_singles(values: npt.NDArray[np.floating]) -> bool:
    """Whether the values went through single precision, whatever type they are stored in."""
    small = np.abs(values).max(initial=0) < LARGEST
    return bool(small and np.array_equal(values, values.astype(np.float32).astype(values.dtype)))


def setting(value: float, most_digits: int = WIDTH_DIGITS) -> float:
    """The number that a single was set to: 0.05 for 0.0500000007; the value itself where that is no short number."""
    meant = _meant(value, most_digits)
    return value if meant is None else meant


def _meant(value: float, most_digits: int = WIDTH_DIGITS) -> float | None:
    """What a value was set to; None for a single of many digits, which may be any number near it."""
    if not _is_single(value):
        return value
    if (short := _short(value, most_digits)) is not None:
        return short
    half = _half(value)
    return _fraction(value - half, value + half)


def _is_single(value: float) -> bool:
    return abs(value) < LARGEST and float(np.float32(value)) == value


def _half(value: float) -> float:
    return float(halves(np.array([value], np.float32))[0])


def _short(value: float, most_digits: int = START_DIGITS) -> float | None:
    """The number of few digits that a single stands for, where it does."""
    if not _is_single(value):
        return None
    shortest = np.format_float_scientific(np.float32(value), unique=True, trim="-")
    digits = shortest.split("e")[0].strip("-").replace(".", "")
    return float(shortest) if len(digits) <= most_digits else None


def restore(stored: npt.NDArray[np.floating], told: Told, scale: float = 1.0) -> tuple[Angles, Angles]:
    """(angles, width of each frame) of a scan, (n,) in degrees; `scale` is what a stored unit is in degrees.

    The width is NaN where the angles lie on no line, which then are those stored, and where these were never singles.
    """
    values = np.asarray(stored, dtype=np.float64) * scale
    widths = np.full(values.shape, np.nan)
    if stored.dtype.kind != "f" or stored.dtype.itemsize < 4 or not are_singles(stored):
        return values, widths
    half = halves(stored.astype(np.float32)) * abs(scale)
    angles = np.empty_like(values)
    for part in _parts(values, half):
        known = told if part.start == 0 else Told(None, told.width)
        line = _line(values[part], half[part], known, whole_units=scale == 1.0)
        if line is None:
            return values, np.full(values.shape, np.nan)
        angles[part] = line[0] + line[1] * np.arange(part.stop - part.start)
        widths[part] = line[1]
    return angles, widths


def _parts(values: Angles, half: Angles) -> Iterator[slice]:
    """Runs without a jump."""
    if len(values) < 2:
        yield slice(0, len(values))
        return
    steps = np.diff(values)
    usual = median(steps)
    jumps = np.flatnonzero(np.abs(steps - usual) > np.maximum(JUMP * abs(usual), 4 * ARITHMETIC * half[1:])) + 1
    bounds = [0, *(int(k) for k in jumps), len(values)]
    for first, end in itertools.pairwise(bounds):
        yield slice(first, end)


def _line(values: Angles, half: Angles, told: Told, *, whole_units: bool) -> tuple[float, float] | None:
    """(start, width) of a line that rounds to the values; None where there is none."""
    widths = [w for w in map(_meant, [told.width] if told.width is not None else []) if w is not None]
    if len(values) == 1 or float(np.ptp(values)) == 0:
        widths.append(0.0)
    strict = half + DOUBLES * np.abs(values).max()
    loose = strict + ARITHMETIC * half.max()
    trials = [(room, width) for room in (strict, loose) for width in widths]
    guesses = ((room, width) for room in (strict, loose) for width in _guesses(values, room, told))
    for room, width in itertools.chain(trials, guesses):
        bounds = _starts(values, room, width)
        if bounds[0] <= bounds[1]:
            return _start(bounds, len(values), float(values[0]), float(half.max()), told, whole_units), width
    return None


def _starts(values: Angles, room: Angles, width: float) -> tuple[float, float]:
    """Least and greatest start of a line of this width through all values, each with room; none if least > greatest."""
    level = values - width * np.arange(len(values))
    return float((level - room).max()), float((level + room).min())


def _start(bounds: tuple[float, float], n: int, first: float, half: float, told: Told, whole_units: bool) -> float:
    """The start that was meant: one that is told, or a short number, else the middle.

    A short one may lie outside by what single precision's arithmetic does; not so the first angle's, where many angles
    leave no doubt that the start wasn't rounded.
    """
    low, high = bounds
    slack = half * ARITHMETIC
    candidates = [(_short(told.start), slack)] if told.start is not None else []
    if whole_units:
        was_rounded = n < LEAVES_NO_DOUBT or low <= first <= high
        candidates.append((_short(first), slack if was_rounded else 0.0))
    for one, room in candidates:
        if one is not None and low - room <= one <= high + room:
            return one
    middle = (low + high) / 2
    return middle if (decimal := _decimal(low, high)) is None else decimal


def _guesses(values: Angles, room: Angles, told: Told) -> Iterator[float]:
    """Widths to try: a short decimal, a simple fraction, the middle of all that are possible."""
    possible = _possible_widths(values, room)
    if possible is None:
        return
    low, high = possible
    if (short := _decimal(low, high)) is not None:
        yield short
    if (simple := _fraction(low, high)) is not None:
        yield simple
    middle = (low + high) / 2
    if told.width is not None:
        half = _half(told.width)
        yield min(max(middle, told.width - half), told.width + half)
    yield middle


def _possible_widths(values: Angles, room: Angles) -> tuple[float, float] | None:
    """Bounds of the widths of lines through all values, each with room.

    How much the start may vary is a concave function of the width, whose slope is told by the two values that
    bound the start: its top is found by bisection, and from there the two zeros.
    """
    index = np.arange(len(values))

    def look(width: float) -> tuple[float, int]:
        level = values - width * index
        upper, lower = int(np.argmin(level + room)), int(np.argmax(level - room))
        return float(level[upper] + room[upper] - level[lower] + room[lower]), lower - upper

    reach = float(room[0] + room[-1]) / max(1, len(values) - 1)
    between = float(values[-1] - values[0]) / max(1, len(values) - 1)
    low, high = between - 2 * reach, between + 2 * reach
    left, right = low, high
    top, (slack, slope) = between, look(between)
    for _ in range(BISECTIONS):
        if slack >= 0 or slope == 0:
            break
        left, right = (top, right) if slope > 0 else (left, top)
        top = (left + right) / 2
        slack, slope = look(top)
    if slack < 0:
        return None
    ends = []
    for outside in (low, high):
        inside = top
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if look(middle)[0] >= 0 else (inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


def _decimal(low: float, high: float) -> float | None:
    """The number of the fewest digits after the point, at most DECIMALS, between two bounds; of several the middle."""
    for digits in range(DECIMALS + 1):
        unit = float(10**digits)
        first, last = math.ceil(low * unit), math.floor(high * unit)
        if first <= last:
            return ((first + last) // 2) / unit
    return None


def _fraction(low: float, high: float) -> float | None:
    """The simplest fraction between two bounds, where one as simple is not to be expected there."""
    if low <= 0 <= high:
        return 0.0
    middle = (low + high) / 2
    for denominator in range(1, LARGEST_DENOMINATOR + 1):
        simplest = Fraction(round(middle * denominator), denominator)
        if low <= simplest <= high:
            return float(simplest) if denominator**2 * (high - low) < CHANCE else None
    return None
