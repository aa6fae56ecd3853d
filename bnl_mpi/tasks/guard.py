"""`--guard`: a sample of a block's images is judged while they are made, and coded more gently where too much is lost.

The images judged are the block's first and every 32nd after it.  What one of them needs holds for those up to the
next, which begins with the user's own setting again: so blocks depend on nothing but their frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ..codecs import registry
from ..codecs.passed import Passed
from ..errors import BnlError
from ..options import Options
from ..spots.single import added_noise
from .report import ImageReport

if TYPE_CHECKING:
    from ..codecs.contract import LossyCodec

JUDGED_OF = 32
"""To look at one takes as long as to make two or three."""
MILD_RATIO = 1.5
"""Of gentler ratios none is below it: then the codec's lossless setting is."""
DECIBELS = 6.0

Code: TypeAlias = "Callable[[LossyCodec, Any, bool], Passed]"
"""Codes an image, which may be changed; the flag says whether its decoded pixels are wanted."""


def gentler(options: Options) -> list[Options]:
    """The next gentler settings of the same codec, each half as coarse as the one before; the last loses nothing."""
    steps, one = [], options
    while (one := _half(one)) is not None:  # type: ignore[assignment]
        steps.append(one)
    return [*steps, lossless(options)]


def _half(options: Options) -> Options | None:
    if options.codec_level is None:
        name, value = options.error_target or ("", 0.0)
        if name == "psnr":
            return replace(options, psnr=value + DECIBELS) if value < 100 else None
        half: dict[str, Any] = {name: value / 2}
        return replace(options, **half) if value >= 1 else None
    level = options.codec_level / 2
    if options.codec == "hcompress":
        return replace(options, codec_level=int(level)) if level >= 2 else None
    return replace(options, codec_level=level) if level >= MILD_RATIO else None


def lossless(options: Options) -> Options:
    """A setting whose codestreams open like those of the options' codec, and hold every count."""
    if options.codec == "htj2k":
        return replace(options, codec_level=None, psnr=None, rms=None, max_error=0)
    # The irreversible wavelet has no lossless setting; the other one's codestreams are of the same format.
    return replace(options, codec="j2k" if options.codec == "j2k2" else options.codec, codec_level=1)


class Guard:
    """Codes a block's images, of which it judges some."""

    def __init__(self, options: Options, codec: LossyCodec) -> None:
        assert options.guard is not None
        self._bound, self._act = options.guard, options.on_guard
        steps = {"gentler": gentler(options), "lossless": [lossless(options)]}
        self._options = [options, *steps.get(self._act, [])]
        self._codecs: dict[int, LossyCodec] = {0: codec}
        self._step = 0

    def begin(self) -> None:
        """A block begins."""
        self._step = 0
        for codec in self._codecs.values():
            codec.reset()

    @property
    def codec(self) -> LossyCodec:
        """The codec of the image that was coded last."""
        return self._codec(self._step)

    def _codec(self, step: int) -> LossyCodec:
        if step not in self._codecs:
            made = registry.make(self._options[step])
            assert made is not None
            self._codecs[step] = made
        return self._codecs[step]

    def run(
        self, values: Any, index: int, bad: Any, code: Code, report: ImageReport, *, pixels: bool, where: str
    ) -> Passed:
        """Code the block's image `index`, from 0, and count what became of it."""
        if index % JUDGED_OF:
            passed = code(self._codec(self._step), values, pixels)
        else:
            passed = self._judged(values, bad, code, report, where)
        report.n_gentler += self._step > 0
        return passed

    def _judged(self, values: Any, bad: Any, code: Code, report: ImageReport, where: str) -> Passed:
        exact = values.copy()
        self._step = 0
        passed, noise = self._try(exact, bad, code)
        report.n_judged += 1
        over = noise > self._bound
        report.n_over += over
        if over and self._act == "stop":
            raise BnlError(
                f"{where}: added noise {noise:.2f} is above --guard {self._bound:g}; give a gentler setting, or "
                "--on_guard gentler"
            )
        while noise > self._bound and self._step + 1 < len(self._options):
            self._step += 1
            passed, noise = self._try(exact, bad, code)
        report.added_noise_1000 = max(report.added_noise_1000, round(1000 * noise))
        return passed

    def _try(self, exact: Any, bad: Any, code: Code) -> tuple[Passed, float]:
        """The image coded at the present step, and its added noise: 0 where it has too few spots to tell."""
        passed = code(self._codec(self._step), exact.copy(), True)
        assert passed.image is not None
        return passed, added_noise(exact, passed.image, bad) or 0.0
