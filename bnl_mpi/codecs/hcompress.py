"""HCompress, as FITS tile compression does it (`-H`).

R. L. White, M. Postman and M. G. Lattanzi, in Digitised Optical Sky Surveys (1992), 167; FITS standard 4.0,
section 10.4.4. Codestreams come from astropy, whose decoded pixels the fast round trip equals to the bit.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np

from ..errors import UsageError
from ..pixels import kernels
from ..pixels.fused import Tiling
from .contract import Image, LossyCodec, join_numcodecs
from .registry import DEFAULT_SCALE
from .versions import version

MIN_SIDE = 4

_ONE_TILE_ROWS = 30
_TILE_ROWS = (16, 24, 20, 30, 28, 26, 22, 18, 14)
_LAST_RESORT = 17

_MAX_SCALE = 2**30

_HEADROOM = 64
"""Decoded pixels exceed coded ones by less than the scale and the rounding of a few levels, together."""


def _leaves_good_tile(ny: int, rows: int) -> bool:
    return ny % rows == 0 or ny % rows >= MIN_SIDE


def tile_rows(shape: tuple[int, int]) -> int:
    """Rows a tile, over the full width, that FITS tile compression takes by default for an image (ny, nx).

    An image of at most 30 rows is one tile. (astropy gives such an image tiles of as many rows as it has
    columns, which is more than one only for the few images that are narrower than high; so do we, but where
    its last tile would be too low and it refuses.)
    """
    ny, nx = shape
    if ny <= _ONE_TILE_ROWS:
        return nx if nx < ny and _leaves_good_tile(ny, nx) else ny
    return next((rows for rows in _TILE_ROWS if _leaves_good_tile(ny, rows)), _LAST_RESORT)


class HCompress(LossyCodec):
    """HCompress of int32 images of 0 to 2**31 - 1; a codestream is a FITS file with the one compressed image.

    Args:
        scale: quantiser step in counts, cut to an integer; below 1 it means 16, at 1 nothing is lost.
    """

    codec_id = "bnl_hcompress"
    image_dtype = "int32"
    label = "hcomp"
    skips_coder = True

    def __init__(self, scale: float = DEFAULT_SCALE) -> None:
        if not scale <= _MAX_SCALE:
            raise UsageError(f"HCompress scale {scale:g} is too large; give at most {_MAX_SCALE}")
        self.scale = DEFAULT_SCALE if scale < 1 else int(scale)

    @classmethod
    def libraries(cls) -> dict[str, str]:
        return {"astropy": version("astropy")}

    @property
    def level(self) -> int:
        return self.scale

    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, "scale": self.scale}

    def check(self, shape: tuple[int, int], limit: float) -> None:
        """Sides are at least 4; `limit` leaves room below 2**31, where the decoder's overshoot would wrap."""
        if min(shape) < MIN_SIDE:
            raise UsageError(
                f"HCompress needs images of at least {MIN_SIDE} x {MIN_SIDE} pixels, these have "
                f"{shape[1]} x {shape[0]}; bin less"
            )
        greatest = 2**31 - 1 - self.scale - _HEADROOM
        if limit > greatest:
            raise UsageError(
                f"HCompress at scale {self.scale} codes values up to {greatest}, the images' "
                f"saturation value is {limit:.0f}; give -u 2 or a smaller -S"
            )

    def tiling(self, shape: tuple[int, int]) -> Tiling | None:
        return Tiling(self.scale, tile_rows(shape))

    def encode(self, buf: Any) -> bytes:
        from astropy.io import fits

        image = self._image(buf).copy()
        compressed = fits.CompImageHDU(
            image,
            compression_type="HCOMPRESS_1",
            hcomp_scale=self.scale,
            tile_shape=(tile_rows(image.shape), image.shape[1]),
        )
        stream = BytesIO()
        fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(stream)
        return stream.getvalue()

    def decode(self, buf: Any, out: Image | None = None) -> Image:
        from astropy.io import fits

        with fits.open(BytesIO(bytes(buf)), memmap=False) as hdus:
            image: Image = np.ascontiguousarray(hdus[1].data, np.int32)
        if out is None:
            return image
        out[...] = image.reshape(out.shape)
        return out

    def roundtrip(self, image: Image) -> Image:
        image = self._image(image)
        kernels.hcompress_roundtrip(image, self.scale, tile_rows(image.shape))
        return image

    @staticmethod
    def _image(buf: Any) -> Image:
        """(ny, nx) int32, contiguous; the caller's own array if it is that already."""
        image: Image = np.ascontiguousarray(buf, np.int32)
        if image.ndim != 2:
            raise ValueError(f"HCompress codes one image, not an array of shape {image.shape}")
        return image


join_numcodecs(HCompress)
