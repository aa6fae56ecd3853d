"""What a reduction leaves of the spots and of the background: the figures, and how they are summed up.

The figure that means something is the *added noise*: the rms change of a spot's sum over the Poisson sigma of that
sum.  0.1 is invisible; 1 doubles the variance, as if half of the photons had been thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHELLS = 6
FEWEST = 20
"""Spots of a shell, at least: fewer shells are made where there are fewer."""

INVISIBLE, CARE = 0.5, 1.0
"""Added noise up to the first is "kept" (a quarter more variance), above the second "weak data lost"."""

KEPT, REDUCED, LOST = "kept", "reduced with care", "weak data lost"


class Pairs(NamedTuple):
    """Spots before and after; arrays of one length."""

    before: Array
    """Counts."""
    after: Array
    """Counts of the raw frames."""
    sigma: Array
    """Poisson's, of `before`."""
    place: Array
    """Resolution in Angstrom, or the radius from the beam in pixels."""

    @property
    def n(self) -> int:
        return len(self.before)

    def part(self, chosen: Any) -> Pairs:
        return Pairs(*(np.asarray(column)[chosen] for column in self))


def joined(parts: list[Pairs]) -> Pairs:
    """The spots of all parts in order."""
    if not parts:
        return Pairs(*(np.empty(0) for _ in Pairs._fields))
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Row:
    """Figures of some spots."""

    label: str
    spots: int
    correlation: float | None
    """Of sums before and after; None where there are too few."""
    slope: float | None
    """Of sums after against sums before: below 1 where intensity is lost."""
    added_noise: float | None
    i_over_sigma: float | None
    """Mean, before."""
    low: float | None = None
    """Limits of the shell: Angstrom (the greater d first) or pixels."""
    high: float | None = None


@dataclass(frozen=True)
class Background:
    """Pixels without spots."""

    mean: float
    """Counts of an image pixel, before the codec."""
    bias: float
    """Counts: mean after less mean before."""
    variance: float | None
    """Over Poisson's: 1 before a codec; below 1 where noise was smoothed; None where there are no counts."""


@dataclass(frozen=True)
class Losses:
    """What a setting does to the sampled spots."""

    shells: tuple[Row, ...]
    weak_shells: tuple[Row, ...]
    """The weakest third of each shell."""
    weak: Row
    """The weakest third of all, by I/sigma."""
    every: Row
    background: Background
    by: str = "d"
    """What shells are of: "d" (Angstrom), or "radius" (pixels) where the geometry isn't told."""
    predicted: bool = False
    """Whether spots were predicted; else only found ones are judged, and weak ones fare worse."""
    pairs: Pairs | None = field(default=None, repr=False, compare=False)

    @property
    def outer(self) -> tuple[Row, ...]:
        """The outer half of the shells."""
        return self.shells[len(self.shells) // 2 :]

    @property
    def outer_noise(self) -> float | None:
        """Added noise in the outer shells, root mean square over their spots."""
        return _pooled(self.outer)

    @property
    def worst_noise(self) -> float | None:
        """The greatest added noise of any shell, the weakest third's among them."""
        found = [row.added_noise for row in (*self.shells, self.weak) if row.added_noise is not None]
        return max(found) if found else None

    @property
    def kept(self) -> float | None:
        """The least correlation of any shell, of sums before and after: what `--min_kept` bounds."""
        found = [row.correlation for row in self.shells if row.correlation is not None]
        return min(found) if found else None

    @property
    def verdict(self) -> str:
        """By the worst shell, never by all together; by the background alone where there are no spots."""
        noise = self.worst_noise
        if noise is None:
            ratio = self.background.variance
            flat = ratio is not None and not 0.8 < ratio < 1.2
            return REDUCED if flat or abs(self.background.bias) > 0.1 * max(self.background.mean, 0.1) else KEPT
        return KEPT if noise <= INVISIBLE else REDUCED if noise <= CARE else LOST

    @property
    def reason(self) -> str:
        """The verdict's, in a line."""
        noise = self.worst_noise
        if noise is None:
            background = self.background
            told = "no counts" if background.variance is None else f"variance {background.variance:.2f} of Poisson's"
            return f"no spots: judged by the background alone, bias {background.bias:+.3f} counts, {told}"
        worst = max((row for row in (*self.shells, self.weak) if row.added_noise is not None), key=_noise)
        where = "the weakest third" if worst is self.weak else f"the shell {worst.label}"
        return f"added noise at most {noise:.2f} ({where}): the variance of its spots grows by {100 * noise**2:.0f} %"


def _noise(row: Row) -> float:
    return row.added_noise or 0.0


def _pooled(rows: tuple[Row, ...]) -> float | None:
    known = [(row.spots, row.added_noise) for row in rows if row.added_noise is not None]
    total = sum(n for n, _ in known)
    return float(np.sqrt(sum(n * noise**2 for n, noise in known) / total)) if total else None


def judge(pairs: Pairs, background: Background, by: str = "d", *, predicted: bool = False) -> Losses:
    """The losses of spots in shells of equal numbers, from the innermost on."""
    inwards = -pairs.place if by == "d" else pairs.place
    order = np.argsort(inwards, kind="stable")
    count = int(min(SHELLS, pairs.n // FEWEST))
    parts = np.array_split(order, count) if count else []
    shells = tuple(_shell(pairs, part, by) for part in parts)
    weak_shells = tuple(_shell(pairs, part[_weakest(pairs.part(part))], by) for part in parts)
    weak = pairs.part(_weakest(pairs))
    return Losses(
        shells,
        weak_shells,
        _row("weakest third", weak),
        _row("all", pairs),
        background,
        by,
        predicted,
        pairs,
    )


def _weakest(pairs: Pairs) -> Array:
    """Which are the third of least I/sigma before."""
    order = np.argsort(pairs.before / pairs.sigma, kind="stable")
    return np.sort(order[: pairs.n // 3])


def _shell(pairs: Pairs, chosen: Array, by: str) -> Row:
    part = pairs.part(chosen)
    first, last = (float(f(part.place)) for f in ((np.max, np.min) if by == "d" else (np.min, np.max)))
    label = f"{first:.2f} - {last:.2f} A" if by == "d" else f"{first:.0f} - {last:.0f} pixels"
    return _row(label, part, first, last)


def _row(label: str, pairs: Pairs, low: float | None = None, high: float | None = None) -> Row:
    n = pairs.n
    if n < 3:
        return Row(label, n, None, None, None, None, low, high)
    before, after = pairs.before - pairs.before.mean(), pairs.after - pairs.after.mean()
    spread, left = float(before @ before), float(after @ after)
    together = float(before @ after)
    noise = float(np.sqrt(np.mean(((pairs.after - pairs.before) / pairs.sigma) ** 2)))
    return Row(
        label,
        n,
        together / float(np.sqrt(spread * left)) if spread > 0 and left > 0 else None,
        together / spread if spread > 0 else None,
        noise,
        float(np.mean(pairs.before / pairs.sigma)),
        low,
        high,
    )


class BackgroundSums:
    """Adds up what images tell of the background: means before and after, and the variance between neighbours.

    The variance is half the mean square of the differences of pixels side by side, so that a slope adds none.
    """

    def __init__(self) -> None:
        self.n = self.pairs = 0
        self.before = self.after = self.squares = self.at_pairs = 0.0

    def add(self, before: Array, after: Array, usable: Array) -> None:
        """(ny, nx) counts before and after the codec, and which pixels are background."""
        usable = usable.astype(bool)
        self.n += int(np.count_nonzero(usable))
        self.before += float(np.sum(before, where=usable, dtype=np.float64))
        self.after += float(np.sum(after, where=usable, dtype=np.float64))
        both = usable[:, ::2][:, : usable.shape[1] // 2] & usable[:, 1::2]
        left, right = after[:, ::2][:, : both.shape[1]], after[:, 1::2]
        difference = np.where(both, right.astype(np.float64) - left, 0.0)
        self.pairs += int(np.count_nonzero(both))
        self.squares += float(np.sum(difference * difference))
        # Poisson's variance is the true mean, for which that before the codec stands.
        means = np.where(both, before[:, ::2][:, : both.shape[1]].astype(np.float64) + before[:, 1::2], 0.0)
        self.at_pairs += float(np.sum(means)) / 2

    def merge(self, other: BackgroundSums) -> None:
        for name in ("n", "pairs", "before", "after", "squares", "at_pairs"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def result(self) -> Background:
        if not self.n:
            return Background(0.0, 0.0, None)
        variance = self.squares / 2 / self.at_pairs if self.at_pairs > 0 else None
        return Background(self.before / self.n, (self.after - self.before) / self.n, variance)
