"""Finding the quantiser step that just meets a target, from what the last image taught.

A codestream's size falls smoothly as the step grows, an image's error rises with it, and the images of a block are
alike: a search that starts where the last image's slope says needs one trial, as a rule.  One that starts elsewhere,
for the image is another, goes on until the target is reached; no image pays for its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .contract import AT_END, AT_JUMP, OUT_OF_TRIALS

MOST_TRIALS = 32
"""Trials of an image at most: a last resort, for smooth values take a few, and a jump is found in some 15."""


@dataclass(frozen=True)
class Target:
    """A bound that a step's result must not exceed, and how near to it is near enough."""

    value: float
    tolerance: float
    """Relative: what lies between `(1 - tolerance) * value` and `value` ends a search."""

    @property
    def aim(self) -> float:
        return self.value * (1 - self.tolerance / 2)

    def meets(self, value: float) -> bool:
        return value <= self.value

    def reached(self, value: float) -> bool:
        return (1 - self.tolerance) * self.value <= value <= self.value


@dataclass(frozen=True)
class Trial:
    """A position that was tried, and its value."""

    u: float
    value: float
    height: float
    """Logarithm of the value over the aim."""


@dataclass(frozen=True)
class Found:
    """Where a search ended."""

    u: float | None
    """None if no value tried, the lowest position's among them, meets the target."""
    miss: str | None = None
    """Why the value isn't near its target, one of `contract.MISSES`; None where it is."""


@dataclass
class Bracket:
    """The trials around a target so far: `below` meets it, `above` doesn't."""

    target: Target
    below: Trial | None = None
    above: Trial | None = None
    best: Trial | None = None
    """Nearest to the target among those that meet it."""
    last: Trial | None = None
    n_trials: int = 0
    slow: int = 0
    """Trials in a row that didn't halve the bracket."""

    def add(self, u: float, value: float) -> Trial:
        self.n_trials += 1
        height = math.log(max(value, 1e-3 * self.target.value) / self.target.aim)
        before, self.last = self.width, Trial(u, value, height)
        if self.target.meets(value):
            self.below = self.last
            if self.best is None or value > self.best.value:
                self.best = self.last
        else:
            self.above = self.last
        self.slow = self.slow + 1 if self.width > before / 2 else 0
        return self.last

    @property
    def width(self) -> float:
        return self.above.u - self.below.u if self.below and self.above else math.inf


@dataclass
class StepSearch:
    """Finds the greatest position `u` with a value not over a target; on the whole, values rise with `u`.

    Secants of log(value) against `u`, kept within the bracket once there is one.  The instance keeps what it
    learned for the next image; a new instance has learned nothing.
    """

    lowest: float
    highest: float
    position: float
    """Where to start."""
    slope: float = 1.0
    jump: float | None = None
    """Just above it the value jumped over the whole tolerance, in the last search."""

    LONGEST_STRIDE: ClassVar[float] = math.log(6)
    JUMP_WIDTH: ClassVar[float] = 2e-3
    """Over less than this no smooth value crosses a tolerance."""
    SLOPES: ClassVar[tuple[float, float]] = (0.15, 4.0)
    TIMID: ClassVar[float] = 0.05
    """Share of a bracket, at both ends, that isn't tried."""

    def run(self, measure: Callable[[float], float], target: Target) -> Found:
        """The position, among those tried, whose value comes closest to the target without exceeding it.

        `measure` is called with each position that is tried.
        """
        bracket = Bracket(target)
        known_jump, self.jump = self.jump, None
        u = self.position
        while (end := self._end(bracket, self._try(measure, u, bracket))) is None:
            u = self._next(bracket, known_jump)
        if bracket.best is None and u != self.lowest:
            self._try(measure, self.lowest, bracket)
        if bracket.best is None:
            return Found(None, end or AT_END)
        best = bracket.best
        self.position = best.u
        if target.reached(best.value):
            self.position = min(max(best.u - best.height / self.slope, self.lowest), self.highest)
            return Found(best.u)
        return Found(best.u, end)

    def _try(self, measure: Callable[[float], float], u: float, bracket: Bracket) -> Trial:
        before, trial = bracket.last, bracket.add(u, measure(u))
        if before is not None and abs(trial.u - before.u) > self.JUMP_WIDTH:
            slope = (trial.height - before.height) / (trial.u - before.u)
            self.slope = min(max(slope, self.SLOPES[0]), self.SLOPES[1])
        return trial

    def _end(self, bracket: Bracket, trial: Trial) -> str | None:
        """Why the search is over, "" where the target is reached; None if it goes on."""
        if bracket.target.reached(trial.value):
            return ""
        if trial.u == (self.highest if bracket.target.meets(trial.value) else self.lowest):
            return AT_END
        if bracket.width < self.JUMP_WIDTH and bracket.above:
            self.jump = bracket.above.u
            return AT_JUMP
        return OUT_OF_TRIALS if bracket.n_trials >= MOST_TRIALS else None

    def _next(self, bracket: Bracket, known_jump: float | None) -> float:
        last, below = bracket.last, bracket.below
        assert last is not None
        if below and bracket.above:
            return self._inside(last, below, bracket.above, bisect=bracket.slow > 1)
        if below and known_jump is not None and 0 < known_jump - below.u < self.JUMP_WIDTH:
            return known_jump
        stride = min(max(abs(last.height) / self.slope, self.JUMP_WIDTH / 2), self.LONGEST_STRIDE)
        # A slope that was learned elsewhere may be far too steep here.
        stride *= 2.0 ** max(0, bracket.n_trials - 3)
        return min(self.highest, last.u + stride) if below else max(self.lowest, last.u - stride)

    def _inside(self, last: Trial, below: Trial, above: Trial, *, bisect: bool) -> float:
        """By the latest slope, else by the bracket's chord; in turn its middle, for values that jump."""
        width = above.u - below.u
        if bisect:
            return below.u + width / 2
        least, most = below.u + self.TIMID * width, above.u - self.TIMID * width
        secant = last.u - last.height / self.slope
        if least < secant < most:
            return secant
        chord = below.u - below.height * width / (above.height - below.height)
        return min(max(chord, least), most)
