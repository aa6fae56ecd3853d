"""High-Throughput JPEG 2000 through OpenJPH: a target ratio or a bounded error (`-T`).

OpenJPH has a quantiser step and no target, so the step is searched (`step_search`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BnlError, UsageError
from ..pixels import kernels
from . import openjph
from .contract import AT_END, PEAK, Errors, Image, LossyCodec, Passed, errors_elsewhere, errors_of, join_numcodecs
from .registry import DEFAULT_RATIO
from .step_search import Found, StepSearch, Target

FINEST_STEP = 1.05e-5
"""In units of the 16-bit range, about 0.7 counts; OpenJPH's binding takes 1e-5 and less for its default."""

COARSEST_STEP = 0.25
"""Beyond it codestreams shrink no more, and near 1 OpenJPH's quantiser overflows."""

MOST_DB = 1000.0
"""More means no loss, too, and powers of ten that no number holds."""

SIZE_TOLERANCE = 0.03
RMS_TOLERANCE = 0.03
MAX_ERROR_TOLERANCE = 0.1
"""How far below its target, relatively, a result is near enough.  The largest error, of one pixel, jumps."""

_LOSSLESS_STEP = 3e-5
"""At steps below this the lossless codestream may be the smaller one."""

_LOSSLESS_HOPE = 1.1
"""Lossless is tried on an image if in the block's last trial of it, it took at most this times the target."""


@dataclass(frozen=True)
class Coded:
    """One image's codestream, and what it achieved."""

    codestream: bytes = field(repr=False)
    step: float
    """Quantiser step in units of 65536 counts; 0 if lossless."""
    decoded: Image | None = field(default=None, repr=False)
    errors: Errors | None = None
    """None where the target is a ratio: errors aren't measured then."""
    miss: str | None = None
    """One of `contract.MISSES`, as in `Passed`."""

    @property
    def exact(self) -> bool:
        return self.errors is not None and not self.errors.squares


class HTJ2K(LossyCodec):
    """`-T`: 9/7 wavelet, one layer, with the step that just meets one target.  Images are (ny, nx) uint16.

    Where a lossless codestream meets a target size too, or is no larger than a lossy one, that is taken.

    Args:
        ratio: 2 bytes a pixel over the codestream's bytes, at least; below 1 it means 125, as by default.
            The size is never over the target, and within 3 % under it where the image allows.
        max_error: largest absolute error of a pixel, in counts, at most.
        psnr: peak signal-to-noise ratio in dB, of 65535, at least.
        rms: root-mean-square error in counts, at most.

    Attributes:
        last: the last image's `Coded`, None at first.
        n_encodes: trials of the last image, a lossless one included.
    """

    codec_id = "bnl_htj2k"
    image_dtype = "uint16"
    label = "htj2k"

    def __init__(
        self,
        ratio: float | None = None,
        *,
        max_error: float | None = None,
        psnr: float | None = None,
        rms: float | None = None,
    ) -> None:
        named = {"ratio": ratio, "max_error": max_error, "psnr": psnr, "rms": rms}
        given = {name: value for name, value in named.items() if value is not None}
        if len(given) > 1:
            raise UsageError(f"HTJ2K has one target, not {' and '.join(given)}; give one of them")
        self.target_name, level = next(iter(given.items()), ("ratio", DEFAULT_RATIO))
        if not (math.isfinite(level) and level >= 0):
            raise UsageError(f"HTJ2K: {self.target_name} must be a number of at least 0, not {level:g}")
        self._level = DEFAULT_RATIO if self.target_name == "ratio" and level < 1 else level
        self.last: Coded | None = None
        """Of the last image; None where a block starts."""
        self.n_encodes = 0
        self.reset()

    @classmethod
    def for_options(cls, level: float | None, bound: tuple[str, float] | None, *, threads: int = 1) -> LossyCodec:
        return cls(level) if bound is None else cls(**dict([bound]))

    @classmethod
    def libraries(cls) -> dict[str, str]:
        return openjph.libraries()

    @property
    def level(self) -> float:
        return self._level

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, self.target_name: self._level}

    def reset(self) -> None:
        """Forget the last image's step: a block starts."""
        self.last = None
        self._search = _new_search(self.target_name, self._level)
        self._lossless_hope, self._lossless_first = True, False

    def check(self, shape: tuple[int, int], limit: float) -> None:
        """OpenJPH is there, values fit 16 bits, and an empty image of this shape reaches the ratio."""
        openjph.library()
        if limit > PEAK:
            raise UsageError(f"HTJ2K codes 16-bit images; the saturation value {limit:g} needs -u 2 or -H")
        if self.target_name == "ratio":
            empty = np.zeros(shape, np.uint16)
            size = min(len(openjph.encode_lossless(empty)), len(openjph.encode_at_step(empty, COARSEST_STEP)))
            if size > self._bytes_wanted(empty):
                raise UsageError(self._unreachable(empty, size))

    def encode(self, buf: Any) -> bytes:
        return self._code(buf).codestream

    def check_codestream(self, codestream: Any, shape: tuple[int, int]) -> None:
        openjph.check(codestream, shape, self.image_dtype)

    def decode(self, buf: Any, out: Image | None = None) -> Image:
        return openjph.decode(buf, out)

    def roundtrip(self, image: Image) -> Image:
        coded = self._code(image)
        return coded.decoded if coded.decoded is not None else openjph.decode(coded.codestream)

    def run(self, image: Image, *, keep: bool, pixels: bool = True, where: NDArray[Any] | None = None) -> Passed:
        """As for every codec; the errors are those of all pixels, gaps included, where no others are given."""
        coded = self._code(image, where)
        decoded, errors = coded.decoded, coded.errors
        if decoded is None and pixels:
            kernels.release()
            decoded = openjph.decode(coded.codestream)
            errors = errors_of(image, decoded)
        rest = None
        if where is not None and coded.exact:
            errors, rest = Errors(0, 0, len(where)), Errors(0, 0, image.size - len(where))
        elif where is not None and decoded is not None:
            errors = errors_of(image, decoded, where)
            rest = errors_elsewhere(image, decoded, where, errors)
        return Passed(decoded, coded.codestream, errors, exact=coded.exact, miss=coded.miss, background=rest)

    def _code(self, buf: Any, where: NDArray[Any] | None = None) -> Coded:
        image = np.ascontiguousarray(buf)
        if image.ndim != 2 or image.dtype != np.uint16:
            raise ValueError(f"HTJ2K codes one uint16 image, not {image.dtype} of shape {image.shape}")
        self.n_encodes = 0
        self.last = self._to_ratio(image) if self.target_name == "ratio" else self._to_error(image, where)
        return self.last

    def _begin_trial(self) -> None:
        # Trials leave memory free in pieces, of which none is large enough for what the next one needs, or an image.
        # A block's first image takes several; on others they may be few, and new memory has its price.
        if self.n_encodes and self.last is None:
            kernels.release()
        self.n_encodes += 1

    def _bytes_wanted(self, image: Image) -> int:
        return int(image.size * 2 / self._level)

    def _to_ratio(self, image: Image) -> Coded:
        wanted = self._bytes_wanted(image)
        lossless_first = self._lossless_first
        if lossless_first and (coded := self._if_lossless(image, wanted)):
            return coded
        tried: dict[float, bytes] = {}

        def measure(u: float) -> float:
            tried[u] = self._encode(image, math.exp(-u))
            return len(tried[u])

        start = self._search.position
        found = self._search.run(measure, Target(max(1, wanted), SIZE_TOLERANCE))
        u = found.u
        # An empty image has fewer bytes without loss than with the coarsest step.
        worth = u is None or found.miss == AT_END or (self._lossless_hope and math.exp(-u) < _LOSSLESS_STEP)
        if worth and not lossless_first and (coded := self._if_lossless(image, wanted)):
            # The next image that isn't empty or weak will be like the last such one.
            self._search.position = start
            return coded
        if u is None:
            raise BnlError(self._unreachable(image, min(map(len, tried.values()))))
        return Coded(tried[u], math.exp(-u), miss=found.miss)

    def _if_lossless(self, image: Image, wanted: int) -> Coded | None:
        """The lossless codestream if it has no more than `wanted` bytes: then it comes first on the next image."""
        exact = self._lossless(image, wanted)
        fits = len(exact) <= wanted
        self._lossless_first = fits
        return Coded(exact, 0.0, image, Errors(0, 0, image.size)) if fits else None

    def _to_error(self, image: Image, where: NDArray[Any] | None) -> Coded:
        target = _error_target(self.target_name, self._level)
        tried: dict[float, Coded] = {}

        def measure(u: float) -> float:
            step = math.exp(u)
            codestream = self._encode(image, step)
            decoded = openjph.decode(codestream)
            errors = errors_of(image, decoded, where)
            tried[u] = Coded(codestream, step, decoded, errors)
            return errors.greatest if self.target_name == "max_error" else errors.rms

        flat = image.min() == image.max()
        found = self._search.run(measure, target) if target.value and not flat else Found(None)
        if found.u is None:
            return Coded(self._lossless(image, image.nbytes), 0.0, image, Errors(0, 0, image.size))
        best = tried[found.u]
        best = best if best.exact else replace(best, miss=found.miss)
        if found.miss == AT_END or (self._lossless_hope and best.step < _LOSSLESS_STEP):
            exact = self._lossless(image, len(best.codestream))
            if len(exact) <= len(best.codestream):
                return Coded(exact, 0.0, image, Errors(0, 0, image.size))
        return best

    def _encode(self, image: NDArray[np.uint16], step: float) -> bytes:
        self._begin_trial()
        return openjph.encode_at_step(image, step)

    def _lossless(self, image: Image, wanted: int) -> bytes:
        """The lossless codestream; notes whether it is worth a trial on the next image too."""
        self._begin_trial()
        codestream = openjph.encode_lossless(image)
        self._lossless_hope = len(codestream) <= _LOSSLESS_HOPE * wanted
        return codestream

    def _unreachable(self, image: Image, size: int) -> str:
        ny, nx = image.shape
        return (
            f"HTJ2K can't reach a ratio of {self._level:g} on an image of {nx} x {ny} pixels: "
            f"{size} bytes at the coarsest step, {self._bytes_wanted(image)} wanted; give a smaller ratio"
        )


def _error_target(name: str, level: float) -> Target:
    if name == "max_error":
        # Errors are integers, so that those below 10 have no tolerance.
        return Target(math.floor(level), MAX_ERROR_TOLERANCE)
    return Target(level if name == "rms" else PEAK / 10 ** (min(level, MOST_DB) / 20), RMS_TOLERANCE)


def _new_search(name: str, level: float) -> StepSearch:
    """Positions are logarithms of the step, negated where the value falls as the step grows."""
    finest, coarsest = math.log(FINEST_STEP), math.log(COARSEST_STEP)
    if name == "ratio":
        return StepSearch(-coarsest, -finest, position=-math.log(1e-4))
    # The largest error is about 2.5 steps, the rms error about one until it levels off at the image's noise.
    counts = _error_target(name, level).value / (2.5 if name == "max_error" else 1.0)
    guess = math.log(max(counts, 1e-3) / (PEAK + 1))
    return StepSearch(finest, coarsest, position=min(max(guess, finest), coarsest))


join_numcodecs(HTJ2K)
