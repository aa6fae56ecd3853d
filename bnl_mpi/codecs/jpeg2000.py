"""JPEG 2000 through OpenJPEG: the original's ladder of layers (`-J`) and the single 9/7 layer (`-K`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BnlError
from . import codestream as headers
from . import openjpeg
from .contract import AT_END, Image, LossyCodec, Passed, join_numcodecs
from .registry import DEFAULT_RATIO
from .versions import version

LADDER_TOP = 8000
"""Every ratio of the ladder but a target of its own is below this."""

SIZE_TOLERANCE = 0.03
"""How far from its target, relatively, a codestream of OpenJPEG's is near enough; it may be over it by a little."""

_ROUNDING_BYTES = 16
"""What is allowed beyond: small targets are some bytes off."""

_HEADER_BYTES = 128
"""Slack for tiny images: the headers, which no ratio makes smaller."""


def ladder(ratio: float) -> list[float]:
    """Layers down to `ratio`: doubled while below 8000, largest first; for 125: 4000, 2000, ..., 250, 125."""
    layers = [ratio]
    while layers[-1] * 2 < LADDER_TOP:
        layers.append(layers[-1] * 2)
    return layers[::-1]


class _Jpeg2000(LossyCodec):
    image_dtype = "uint16"
    label = "j2k"
    irreversible = False

    def __init__(self, ratio: float = DEFAULT_RATIO, threads: int = 1) -> None:
        self.ratio = DEFAULT_RATIO if ratio < 1 else ratio
        self.threads = threads

    @classmethod
    def for_options(cls, level: float | None, bound: tuple[str, float] | None, *, threads: int = 1) -> LossyCodec:
        return cls(DEFAULT_RATIO if level is None else level, threads)

    @classmethod
    def libraries(cls) -> dict[str, str]:
        return {"glymur": version("glymur"), "openjpeg": openjpeg.version()}

    @property
    def level(self) -> float:
        return self.ratio

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "ratio": self.ratio}

    def layers(self) -> list[float]:
        raise NotImplementedError

    def check(self, shape: tuple[int, int], limit: float) -> None:
        if limit > 65535:
            raise BnlError(f"JPEG 2000 codes 16-bit images; the saturation value {limit:g} needs -u 2 or -H")

    def encode(self, buf: Any) -> bytes:
        image = np.ascontiguousarray(buf)
        codestream = openjpeg.encode(image, self.layers(), irreversible=self.irreversible, threads=self.threads)
        target = image.nbytes / self.ratio
        if len(codestream) > 1.1 * target + _HEADER_BYTES:
            raise BnlError(
                f"JPEG 2000 can't reach a ratio of {self.ratio:g} on an image of {image.shape[1]} x {image.shape[0]} "
                f"pixels: {len(codestream)} bytes, {target:.0f} wanted; give a smaller ratio"
            )
        return codestream

    def run(self, image: Image, *, keep: bool, pixels: bool = True, where: NDArray[Any] | None = None) -> Passed:
        codestream = self.encode(image)
        decoded = self.decode(codestream)
        wanted = image.nbytes / self.ratio
        near = abs(len(codestream) - wanted) <= SIZE_TOLERANCE * wanted + _ROUNDING_BYTES
        exact = not near and np.array_equal(decoded, image)
        return Passed(decoded, codestream, exact=exact, miss=None if near or exact else AT_END)

    def check_codestream(self, codestream: Any, shape: tuple[int, int]) -> None:
        levels = openjpeg.resolutions(shape) - 1
        headers.check(codestream, shape, self.image_dtype, high_throughput=False, decompositions=levels)

    def decode(self, buf: Any, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        image = openjpeg.decode(buf, threads=self.threads)
        if out is None:
            return image
        out[...] = image
        return out


class J2K(_Jpeg2000):
    """`-J R`: reversible 5/3 wavelet, layers [.., 4R, 2R, R].  Images are (ny, nx) uint16."""

    codec_id = "bnl_j2k"

    def layers(self) -> list[float]:
        return ladder(self.ratio)


class J2K2(_Jpeg2000):
    """`-K R`: irreversible 9/7 wavelet, one layer of ratio R.  Images are (ny, nx) uint16."""

    codec_id = "bnl_j2k2"
    irreversible = True

    def layers(self) -> list[float]:
        return [self.ratio]


join_numcodecs(J2K)
join_numcodecs(J2K2)
