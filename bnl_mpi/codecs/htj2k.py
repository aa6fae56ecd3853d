"""High-Throughput JPEG 2000 (ITU-T T.814) through OpenJPH: a target ratio or a bounded error (`-T`).

OpenJPH has a quantiser step and no target, so the step is searched.  A codestream's size falls smoothly as
the step grows, an image's error rises with it, and the images of a block are alike: a search that starts from
the last image's step, with the slope learned there, needs one to three trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numcodecs.registry import register_codec
from numpy.typing import NDArray

from ..errors import BnlError, UsageError
from .contract import PEAK, Errors, Image, LossyCodec, Passed, errors_of

DEFAULT_RATIO = 125

FINEST_STEP = 1.05e-5
"""In units of the 16-bit range, about 0.7 counts; OpenJPH's binding takes 1e-5 and less for its default."""

COARSEST_STEP = 0.25
"""Beyond it codestreams shrink no more, and near 1 OpenJPH's quantiser overflows."""

MOST_DECOMPOSITIONS = 8
"""Deep enough that the empty parts of a 1 to 16 megapixel image cost next to nothing; more gains no more."""

MOST_TRIALS = 16
"""Trials of a block's first image at most, where values jump; then the best of them is taken."""

MEAN_TRIALS = 3
"""Trials an image after a block's first: what easy images leave, hard ones may use."""

SIZE_TOLERANCE = 0.03
RMS_TOLERANCE = 0.03
MAX_ERROR_TOLERANCE = 0.1
"""How far below its target, relatively, a result is near enough.  The largest error, of one pixel, jumps."""

_LOSSLESS_STEP = 3e-5
"""At steps below this the lossless codestream may be the smaller one."""

_LOSSLESS_HOPE = 1.1
"""Lossless is tried on an image if in the block's last trial of it, it took at most this times the target."""

_TOP_COUNTS_A_STEP = 2.0
"""Overshoot of a decoded maximum in steps, seldom exceeded."""


@cache
def _openjph() -> ModuleType:
    """imagecodecs, with OpenJPH in it."""
    try:
        import imagecodecs

        if not imagecodecs.HTJ2K.available:
            raise ImportError("imagecodecs was built without OpenJPH")
    except (ImportError, AttributeError) as error:
        raise UsageError(f"HTJ2K needs imagecodecs: pip install 'bnl-mpi[htj2k]' ({error})") from error
    module: ModuleType = imagecodecs
    return module


def library_version() -> str:
    """OpenJPH's name and version."""
    return str(_openjph().htj2k_version())


def decompositions(shape: tuple[int, ...]) -> int:
    """Wavelet decompositions of an image (ny, nx): 8, fewer where its longer side is below 512."""
    return max(1, min(MOST_DECOMPOSITIONS, max(shape).bit_length() - 2))


def encode_lossless(image: Image) -> bytes:
    """A reversible (5/3) codestream of an image (ny, nx) of 8- or 16-bit integers.

    It is a chunk (1, ny, nx) or (ny, nx) as HDF5 filter 32033 (`hdf5plugin.Htj2k()`) decodes it.
    """
    if image.dtype.kind not in "ui" or image.dtype.itemsize > 2:
        raise UsageError(f"HTJ2K codes 8- and 16-bit integers, not {image.dtype}; give -u 2 or another --compression")
    if image.ndim != 2:
        raise ValueError(f"HTJ2K codes one image, not an array of shape {image.shape}")
    codestream: bytes = _openjph().htj2k_encode(
        np.ascontiguousarray(image), reversible=True, resolutions=decompositions(image.shape)
    )
    return codestream


def encode_at_step(image: NDArray[np.uint16], step: float) -> bytes:
    """An irreversible (9/7) codestream of an image (ny, nx), quantised with `step`, in units of 65536 counts.

    OpenJPH's decoder (0.26) wraps what overshoots 65535 to 0.  So pixels within two steps of it are coded as
    the value two steps below, or lower where even that overshoots.
    """
    margin = math.ceil(_TOP_COUNTS_A_STEP * step * (PEAK + 1))
    if int(image.max()) <= PEAK - margin:
        return _encode_irreversible(image, step)
    while True:
        codestream = _encode_irreversible(np.minimum(image, np.uint16(PEAK - margin)), step)
        if margin == PEAK or not np.any((decode(codestream) == 0) & (image > PEAK // 2)):
            return codestream
        margin = min(2 * margin, PEAK)


def _encode_irreversible(image: NDArray[np.uint16], step: float) -> bytes:
    codestream: bytes = _openjph().htj2k_encode(
        image, level=step, reversible=False, resolutions=decompositions(image.shape)
    )
    return codestream


def decode(codestream: Any, out: Image | None = None) -> Image:
    """The image (ny, nx) of a codestream of one component, in the type that it was coded from."""
    library = _openjph()
    try:
        image: Image = library.htj2k_decode(codestream, out=out)
    except RuntimeError as error:
        size = memoryview(codestream).nbytes
        raise BnlError(f"{library_version()}: these {size} bytes are no HTJ2K codestream") from error
    return image


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


@dataclass(frozen=True)
class Coded:
    """One image's codestream, and what it achieved."""

    codestream: bytes = field(repr=False)
    step: float
    """Quantiser step in units of 65536 counts; 0 if lossless."""
    decoded: Image | None = field(default=None, repr=False)
    errors: Errors | None = None
    """None where the target is a ratio: errors aren't measured then."""


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
        self.n_encodes = 0
        self.reset()

    @property
    def level(self) -> float:
        return self._level

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, self.target_name: self._level}

    def reset(self) -> None:
        """Forget the last image's step: a block starts."""
        self._search = _new_search(self.target_name, self._level)
        self._lossless_hope = True

    def check(self, shape: tuple[int, int], limit: float) -> None:
        """OpenJPH is there, values fit 16 bits, and an empty image of this shape reaches the ratio."""
        _openjph()
        if limit > PEAK:
            raise UsageError(f"HTJ2K codes 16-bit images; the saturation value {limit:g} needs -u 2 or -H")
        if self.target_name == "ratio":
            empty = np.zeros(shape, np.uint16)
            size = min(len(encode_lossless(empty)), len(encode_at_step(empty, COARSEST_STEP)))
            if size > self._bytes_wanted(empty):
                raise UsageError(self._unreachable(empty, size))

    def encode(self, buf: Any) -> bytes:
        return self._code(buf).codestream

    def decode(self, buf: Any, out: Image | None = None) -> Image:
        return decode(buf, out)

    def roundtrip(self, image: Image) -> Image:
        coded = self._code(image)
        return coded.decoded if coded.decoded is not None else decode(coded.codestream)

    def run(self, image: Image, *, keep: bool) -> Passed:
        """As for every codec; the errors are those of all pixels, gaps included."""
        coded = self._code(image)
        decoded = decode(coded.codestream) if coded.decoded is None else coded.decoded
        errors = errors_of(image, decoded) if coded.errors is None else coded.errors
        return Passed(decoded, coded.codestream, errors)

    def _code(self, buf: Any) -> Coded:
        image = np.ascontiguousarray(buf)
        if image.ndim != 2 or image.dtype != np.uint16:
            raise ValueError(f"HTJ2K codes one uint16 image, not {image.dtype} of shape {image.shape}")
        self.n_encodes = 0
        self.last = self._to_ratio(image) if self.target_name == "ratio" else self._to_error(image)
        return self.last

    def _bytes_wanted(self, image: Image) -> int:
        return int(image.size * 2 / self._level)

    def _to_ratio(self, image: Image) -> Coded:
        wanted = self._bytes_wanted(image)
        tried: dict[float, bytes] = {}

        def measure(u: float) -> float:
            tried[u] = self._encode(image, math.exp(-u))
            return len(tried[u])

        u = self._search.run(measure, Target(max(1, wanted), SIZE_TOLERANCE))
        # An empty image has fewer bytes without loss than with the coarsest step.
        if u is None or (self._lossless_hope and math.exp(-u) < _LOSSLESS_STEP):
            exact = self._lossless(image, wanted)
            if len(exact) <= wanted:
                return Coded(exact, 0.0)
        if u is None:
            raise BnlError(self._unreachable(image, min(map(len, tried.values()))))
        return Coded(tried[u], math.exp(-u))

    def _to_error(self, image: Image) -> Coded:
        target = _error_target(self.target_name, self._level)
        tried: dict[float, Coded] = {}

        def measure(u: float) -> float:
            step = math.exp(u)
            codestream = self._encode(image, step)
            decoded = decode(codestream)
            errors = errors_of(image, decoded)
            tried[u] = Coded(codestream, step, decoded, errors)
            return errors.greatest if self.target_name == "max_error" else errors.rms

        u = self._search.run(measure, target) if target.value else None
        if u is None or (self._lossless_hope and tried[u].step < _LOSSLESS_STEP):
            exact = self._lossless(image, len(tried[u].codestream) if u is not None else image.nbytes)
            if u is None or len(exact) <= len(tried[u].codestream):
                return Coded(exact, 0.0, image, Errors(0, 0, image.size))
        return tried[u]

    def _encode(self, image: NDArray[np.uint16], step: float) -> bytes:
        self.n_encodes += 1
        return encode_at_step(image, step)

    def _lossless(self, image: Image, wanted: int) -> bytes:
        """The lossless codestream; notes whether it is worth a trial on the next image too."""
        self.n_encodes += 1
        codestream = encode_lossless(image)
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
    return Target(level if name == "rms" else PEAK / 10 ** (level / 20), RMS_TOLERANCE)


def _new_search(name: str, level: float) -> StepSearch:
    """Positions are logarithms of the step, negated where the value falls as the step grows."""
    finest, coarsest = math.log(FINEST_STEP), math.log(COARSEST_STEP)
    if name == "ratio":
        return StepSearch(-coarsest, -finest, position=-math.log(1e-4))
    # The largest error is about 2.5 steps, the rms error about one until it levels off at the image's noise.
    counts = _error_target(name, level).value / (2.5 if name == "max_error" else 1.0)
    guess = math.log(max(counts, 1e-3) / (PEAK + 1))
    return StepSearch(finest, coarsest, position=min(max(guess, finest), coarsest))


register_codec(HTJ2K)
