"""The lossy codecs, one file each; a new one is one line in `make`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..options import Options
    from .base import LossyCodec


def make(options: Options) -> LossyCodec | None:
    """The codec that the options ask for, or None.  Imports that codec's library and no other's."""
    level: Any = options.codec_level
    if options.codec == "hcompress":
        from .hcompress import HCompress

        return HCompress(level)
    if options.codec in ("j2k", "j2k2"):
        from .jpeg2000 import J2K, J2K2

        return (J2K if options.codec == "j2k" else J2K2)(level, threads=options.codec_threads)
    return None
