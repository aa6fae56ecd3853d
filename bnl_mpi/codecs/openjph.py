"""HTJ2K codestreams (ITU-T T.814) in memory through OpenJPH, which imagecodecs binds."""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BnlError, UsageError
from . import codestream as headers
from . import versions
from .contract import PEAK, Image

MOST_DECOMPOSITIONS = 8
"""Deep enough that the empty parts of a 1 to 16 megapixel image cost next to nothing; more gains no more."""

_TOP_COUNTS_A_STEP = 2.0
"""Overshoot of a decoded maximum in steps, seldom exceeded."""


@cache
def library() -> ModuleType:
    """imagecodecs, with OpenJPH in it."""
    try:
        import imagecodecs

        if not imagecodecs.HTJ2K.available:
            raise ImportError("imagecodecs was built without OpenJPH")
    except (ImportError, AttributeError) as error:
        raise UsageError(f"HTJ2K needs imagecodecs: pip install 'bnl-mpi[htj2k]' ({error})") from error
    module: ModuleType = imagecodecs
    return module


def version() -> str:
    """OpenJPH's name and version."""
    return str(library().htj2k_version())


def libraries() -> dict[str, str]:
    """The versions of the binding and of the library behind it."""
    return {"imagecodecs": versions.version("imagecodecs"), "openjph": version()}


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
    codestream: bytes = library().htj2k_encode(
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
    codestream: bytes = library().htj2k_encode(
        image, level=step, reversible=False, resolutions=decompositions(image.shape)
    )
    return codestream


def decode(codestream: Any, out: Image | None = None) -> Image:
    """The image (ny, nx) of a codestream of one component, in the type that it was coded from."""
    module = library()
    try:
        image: Image = module.htj2k_decode(codestream, out=out)
    except RuntimeError as error:
        size = memoryview(codestream).nbytes
        raise BnlError(f"{version()}: these {size} bytes are no HTJ2K codestream") from error
    return image


def check(codestream: Any, shape: tuple[int, int], dtype: str | np.dtype[Any]) -> None:
    """Raise InputError if a stored codestream isn't one of ours of an image (ny, nx) of that type."""
    headers.check(codestream, shape, dtype, high_throughput=True, decompositions=decompositions(shape))


def decode_stored(codestream: Any, shape: tuple[int, int], dtype: str | np.dtype[Any]) -> Image:
    """The image (ny, nx) of a stored codestream, which is checked first."""
    check(codestream, shape, dtype)
    return np.ascontiguousarray(decode(codestream))
