"""The contract of the lossy codecs: numcodecs codecs of one image, with a few words more."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numcodecs.abc import Codec
from numpy.typing import NDArray

Image = NDArray[Any]


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

    def roundtrip(self, image: Image) -> Image:
        """What `decode(encode(image))` gives; the array may be `image` itself, changed in place."""
        decoded: Image = np.ascontiguousarray(self.decode(self.encode(image)))
        return decoded

    def reset(self) -> None:
        """Forget what earlier images taught: called where a block starts, so that blocks don't depend on
        which process made the one before."""
