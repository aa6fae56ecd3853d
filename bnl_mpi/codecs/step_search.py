"""Finding the quantiser step that just meets a target, from what the last image taught.

A codestream's size falls smoothly as the step grows, an image's error rises with it, and the images of a block
are alike: a search that starts from the last image's step, with the slope learned there, needs one to three trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

MOST_TRIALS = 16
"""Trials of a block's first image at most, where values jump; then the best of them is taken."""

MEAN_TRIALS = 3
"""Trials an image after a block's first: what easy images leave, hard ones may use."""


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

    def add(self, u: float, value: float) -> Trial:
        self.n_trials += 1
        height = math.log(max(value, 1e-3 * self.target.value) / self.target.aim)
        self.last = trial = Trial(u, value, height)
        if not self.target.meets(value):
            self.above = trial
            return trial
        self.below = trial
        if self.best is None or value > self.best.value:
            self.best = trial
        return trial

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
    """Where to start: later, where the last search ended."""
    slope: float = 1.0
    jump: float | None = None
    """Just above it the value jumped over the whole tolerance, in the last search."""
    credit: int | None = None
    """Trials that the next image may take; None before the first, whose own they are."""

    LONGEST_STRIDE: ClassVar[float] = math.log(6)
    JUMP_WIDTH: ClassVar[float] = 2e-3
    SLOPES: ClassVar[tuple[float, float]] = (0.15, 4.0)
    TIMID: ClassVar[float] = 0.05
    """Share of a bracket, at both ends, that isn't tried."""

    def run(self, measure: Callable[[float], float], target: Target) -> float | None:
        """The position, among those tried, whose value comes closest to the target without exceeding it.

        `measure` is called with each position that is tried.  None if no value tried, the lowest position's
        among them, meets the target.
        """
        bracket = Bracket(target)
        known_jump, self.jump = self.jump, None
        u = self.position
        while not self._ends(bracket, self._try(measure, u, bracket)):
            u = self._next(bracket, known_jump)
        if bracket.best is None and u != self.lowest:
            self._try(measure, self.lowest, bracket)
        self.credit = MEAN_TRIALS + (0 if self.credit is None else self.credit - bracket.n_trials)
        if bracket.best is None:
            return None
        self.position = bracket.best.u
        return self.position

    def _try(self, measure: Callable[[float], float], u: float, bracket: Bracket) -> Trial:
        before, trial = bracket.last, bracket.add(u, measure(u))
        if before is not None and abs(trial.u - before.u) > self.JUMP_WIDTH:
            slope = (trial.height - before.height) / (trial.u - before.u)
            self.slope = min(max(slope, self.SLOPES[0]), self.SLOPES[1])
        return trial

    def _ends(self, bracket: Bracket, trial: Trial) -> bool:
        if bracket.width < self.JUMP_WIDTH and bracket.above:
            self.jump = bracket.above.u
            return True
        end_of_road = self.highest if bracket.target.meets(trial.value) else self.lowest
        may_try = MOST_TRIALS if bracket.best is None or self.credit is None else min(MOST_TRIALS, self.credit)
        return bracket.target.reached(trial.value) or trial.u == end_of_road or bracket.n_trials >= may_try

    def _next(self, bracket: Bracket, known_jump: float | None) -> float:
        last, below = bracket.last, bracket.below
        assert last is not None
        if below and bracket.above:
            return self._inside(last, below, bracket.above, bisect=bracket.n_trials % 4 == 0)
        if below and known_jump is not None and 0 < known_jump - below.u < self.JUMP_WIDTH:
            return known_jump
        stride = min(max(abs(last.height) / self.slope, self.JUMP_WIDTH / 2), self.LONGEST_STRIDE)
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
