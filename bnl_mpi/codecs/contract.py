"""The contract of the lossy codecs: numcodecs codecs of one image, with a few words more."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..pixels import kernels
from ..pixels.fused import Tiling
from .passed import AT_END as AT_END
from .passed import AT_JUMP as AT_JUMP
from .passed import MISSES as MISSES
from .passed import OUT_OF_TRIALS as OUT_OF_TRIALS
from .passed import PEAK as PEAK
from .passed import Errors as Errors
from .passed import Image as Image
from .passed import Passed as Passed


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


class LossyCodec(ABC):
    """Codes one image (ny, nx), index order (slow, fast), and decodes it again, with loss.

    `get_config` gives what provenance keeps and `from_config` takes back; a published `codec_id` or config
    key never changes its meaning.

    A codec of numcodecs wherever that is in use, which finds it by its id through the package's entry points. It isn't
    imported here: that takes 6 MB of each worker and 25 ms, and nothing of it is needed.
    """

    codec_id: ClassVar[str]

    image_dtype: ClassVar[str]
    """Type that `encode` and `roundtrip` want and `decode` gives: "int32" or "uint16"."""

    label: ClassVar[str]
    """Name in a squash file's attributes: "hcomp", "j2k" or "htj2k"."""

    skips_coder: ClassVar[bool] = False
    """Whether `roundtrip` needs no entropy coder, and so costs less than `encode` and `decode`."""

    @classmethod
    def for_options(cls, level: float | None, bound: tuple[str, float] | None, *, threads: int = 1) -> LossyCodec:
        """The codec of that level, or where the level is None of the (name, value) that `bound` tells."""
        return cls(level)  # type: ignore[call-arg]  # each class has its own

    @abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The codec's id, and the arguments that make it again; fit for JSON."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LossyCodec:
        """The codec of what `get_config` gave, without the id."""
        join_numcodecs(cls)
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LossyCodec) and self.get_config() == other.get_config()

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

    def tiling(self, shape: tuple[int, int]) -> Tiling | None:
        """The HCompress whose round trip `roundtrip` is, of images of this shape: then it can be made on the way."""
        return None

    def check_codestream(self, codestream: Any, shape: tuple[int, int]) -> None:  # noqa: B027
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

    def reset(self) -> None:  # noqa: B027
        """Forget what earlier images taught: called where a block starts, so that blocks don't depend on
        which process made the one before."""


def join_numcodecs(codec: type[LossyCodec]) -> None:
    """Make a class a codec of numcodecs, if a program has imported that."""
    if "numcodecs.registry" in sys.modules:
        from numcodecs.abc import Codec
        from numcodecs.registry import register_codec

        Codec.register(LossyCodec)
        register_codec(codec)
