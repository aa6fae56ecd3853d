"""The words of `--guard`: a bound on the noise that a codec adds to spots, and what an image above it gets."""

from __future__ import annotations

import math

from ..errors import UsageError
from . import registry

ON_GUARD = ("gentler", "lossless", "stop", "warn")


def check(guard: float | None, on_guard: str, codec: str | None) -> None:
    """Raise a UsageError where they make no sense."""
    if guard is not None and codec is None:
        raise UsageError(f"--guard watches over a lossy codec: give one of {registry.flags()} too")
    if on_guard not in ON_GUARD:
        raise UsageError(f"--on_guard {on_guard}: give one of {', '.join(ON_GUARD)}")
    if guard is None and on_guard != "gentler":
        raise UsageError(f"--on_guard {on_guard} says what --guard does: give --guard ADDED_NOISE too")
    if guard is not None and not (math.isfinite(guard) and guard > 0):
        raise UsageError(f"--guard {guard:g}: must be a number above 0; 0.5 adds a quarter to the variance")
