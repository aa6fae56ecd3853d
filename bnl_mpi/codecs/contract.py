"""The contract of the lossy codecs: numcodecs codecs of one image, with a few words more."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numcodecs.abc import Codec
from numpy.typing import NDArray

from ..errors import InputError
from ..pixels import kernels

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


def errors_elsewhere(image: Image, decoded: Image, where: NDArray[Any], errors: Errors) -> Errors:
    """The errors of all pixels but those `where`, whose own are `errors`."""
    greatest, squares = kernels.compare(image, decoded)
    if errors.greatest == greatest:
        elsewhere = np.ones(image.size, bool)
        elsewhere[where] = False
        return errors_of(image, decoded, np.flatnonzero(elsewhere))
    return Errors(greatest, squares - errors.squares, image.size - errors.n_pixels)


def errors_of(image: Image, decoded: Image, where: NDArray[Any] | None = None) -> Errors:
    """The errors of `decoded` against `image`, both (ny, nx) uint16; of the pixels `where`, by flat index, if given."""
    if where is not None:
        if not len(where):
            return Errors(0, 0, 0)
        image, decoded = (a.reshape(-1)[where].reshape(1, -1) for a in (image, decoded))
    greatest, squares = kernels.compare(image, decoded)
    return Errors(greatest, squares, image.size)


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


class LossyCodec(Codec):  # type: ignore[misc]  # numcodecs has no type hints
    """Codes one image (ny, nx), index order (slow, fast), and decodes it again, with loss.

    `get_config` gives what provenance keeps and `from_config` takes back; a published `codec_id` or config
    key never changes its meaning.
    """

    image_dtype: ClassVar[str]
    """Type that `encode` and `roundtrip` want and `decode` gives: "int32" or "uint16"."""

    label: ClassVar[str]
    """Name in a squash file's attributes: "hcomp", "j2k" or "htj2k"."""

    skips_coder: ClassVar[bool] = False
    """Whether `roundtrip` needs no entropy coder, and so costs less than `encode` and `decode`."""

    @classmethod
    def for_options(cls, level: float | None, bound: tuple[str, float] | None, *, threads: int = 1) -> LossyCodec:
        """The codec of that level, or where the level is None of the (name, value) that `bound` tells."""
        return cls(level)

    @classmethod
    def libraries(cls) -> dict[str, str]:
        """Name and version of each library that codes and decodes, of the very build in use."""
        return {}

    @property
    @abstractmethod
    def level(self) -> float:
        """The user's number: a quantiser scale or a target ratio."""

    @abstractmethod
    def check(self, shape: tuple[int, int], limit: float) -> None:
        """Raise a BnlError if images of this shape, with values up to `limit`, can't be coded."""

    @abstractmethod
    def encode(self, buf: Any) -> bytes:
        """The codestream of an image (ny, nx) of `image_dtype`; it can be decoded by itself."""

    @abstractmethod
    def decode(self, buf: Any, out: Image | None = None) -> Image:
        """The image (ny, nx) of a codestream, in `out` if given."""

    def check_codestream(self, codestream: Any, shape: tuple[int, int]) -> None:
        """Raise InputError if a codestream that somebody stored isn't one that this codec makes of images (ny, nx).

        Called before it is decoded, for libraries crash on headers that don't fit.
        """

    def decode_stored(self, codestream: Any, shape: tuple[int, int]) -> Image:
        """The image (ny, nx) of a codestream out of a file; InputError if it isn't of that shape."""
        self.check_codestream(codestream, shape)
        decoded: Image = np.ascontiguousarray(self.decode(codestream))
        if decoded.shape != shape:
            raise InputError(f"the codestream is of {decoded.shape} pixels, not {shape}")
        return decoded

    def roundtrip(self, image: Image) -> Image:
        """What `decode(encode(image))` gives; the array may be `image` itself, changed in place."""
        decoded: Image = np.ascontiguousarray(self.decode(self.encode(image)))
        return decoded

    def run(self, image: Image, *, keep: bool, pixels: bool = True, where: NDArray[Any] | None = None) -> Passed:
        """Code `image`, (ny, nx), and decode it.

        With `keep` the codestream is made in any case; without `pixels` the image need not be decoded.  `where`: flat
        indices of the pixels that bounds are meant for, and errors told of; None for all.  `image` may be changed, and
        be the result's own.
        """
        if self.skips_coder:
            codestream = self.encode(image) if keep else None
            return Passed(self.roundtrip(image), codestream)
        codestream = self.encode(image)
        return Passed(np.ascontiguousarray(self.decode(codestream)), codestream)

    def reset(self) -> None:
        """Forget what earlier images taught: called where a block starts, so that blocks don't depend on
        which process made the one before."""
