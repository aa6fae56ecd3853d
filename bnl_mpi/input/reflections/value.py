"""Reflections as positions: what every reader of a reflection file gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Reflections:
    """Where reflections lie, one element of each array a reflection."""

    x: Array
    """Fast, in pixels of a frame; 0 is the first pixel's outer corner, 0.5 its centre."""
    y: Array
    """Slow, likewise."""
    first: Array
    """The first frame that a reflection is on, counted from 0; may lie before the scan."""
    last: Array
    """The last one, included."""
    radius: Array
    """Of what a reflection covers, in pixels of a frame."""
    of_many_frames: bool = True
    """Whether the file tells on which frames a reflection is, not on which it is strongest alone."""
    scan: tuple[int, int] | None = None
    """First and last frame of the images that the file was made of, counted from 0, where it tells."""

    def __len__(self) -> int:
        return len(self.x)


def unite(parts: Sequence[Reflections]) -> Reflections:
    """All reflections of all parts, in order."""

    def joined(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    return Reflections(
        joined("x"),
        joined("y"),
        joined("first"),
        joined("last"),
        joined("radius"),
        of_many_frames=all(part.of_many_frames for part in parts),
    )


SMALLEST_RADIUS = 4.0
"""Pixels of a frame: the smallest radius that is taken from a file without being told."""


def told_radius(pixels: float) -> float:
    """A spot's radius as a file tells it, made a default: rounded up to half a pixel, and at least 4."""
    return max(SMALLEST_RADIUS, float(np.ceil(2 * pixels)) / 2)


def check_finite(path: str, positions: Array) -> None:
    """`positions`, (n, 3), are numbers; the first that isn't is named, counted from 1."""
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise InputError(f"{path}: reflection {int(np.argmin(finite)) + 1} has no position; make the file again")
