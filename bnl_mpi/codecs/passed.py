"""What a lossy codec tells of an image; apart from the codecs, so that a run without one needs no library of theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Image = NDArray[Any]

PEAK = 65535
"""Highest value of a 16-bit pixel; PSNR refers to it."""


AT_END, AT_JUMP, OUT_OF_TRIALS = MISSES = ("end", "jump", "trials")
"""Why an image is further under its target than the codec's tolerance: nothing nearer can be asked of the codec; the
size or error jumps over the target; the search was given up."""


@dataclass(frozen=True)
class Errors:
    """How far decoded pixels are from an image, in counts."""

    greatest: int
    """Largest absolute difference."""
    squares: int
    """Sum of the squared differences."""
    n_pixels: int

    @property
    def rms(self) -> float:
        return math.sqrt(self.squares / max(1, self.n_pixels))

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio in dB, of 65535; infinite without an error."""
        return 20 * math.log10(PEAK / self.rms) if self.squares else math.inf


@dataclass(frozen=True)
class Passed:
    """An image that went through a codec and back."""

    image: Image | None = field(repr=False)
    """Decoded, (ny, nx); None where it wasn't asked for."""
    codestream: bytes | None = field(default=None, repr=False)
    """None where none was made."""
    errors: Errors | None = None
    """None where they aren't measured."""
    exact: bool = False
    """Whether the codestream is known to be without loss: then it has no target to miss."""
    miss: str | None = None
    """One of MISSES; None where the target is met within the codec's tolerance, or there is none."""
    background: Errors | None = None
    """Of all other pixels than those that the errors were wanted of; None where these were all."""
