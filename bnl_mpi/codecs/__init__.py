"""The lossy codecs, one file each; a new one is one line in `make`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..options import Options
    from .contract import LossyCodec


def make(options: Options) -> LossyCodec | None:
    """The codec that the options ask for, or None.  Imports that codec's library and no other's."""
    level: Any = options.codec_level
    if options.codec == "hcompress":
        from .hcompress import HCompress

        return HCompress(level)
    if options.codec in ("j2k", "j2k2"):
        from .jpeg2000 import J2K, J2K2

        return (J2K if options.codec == "j2k" else J2K2)(level, threads=options.codec_threads)
    if options.codec == "htj2k":
        from .htj2k import HTJ2K

        target = options.error_target
        return HTJ2K(level) if target is None else HTJ2K(**{target[0]: target[1]})
    return None


def from_config(config: dict[str, Any]) -> LossyCodec:
    """The codec of a squash file, by what its `get_config` gave; raises InputError for one that isn't ours."""
    from . import hcompress, htj2k, jpeg2000

    known = {c.codec_id: c for c in (hcompress.HCompress, jpeg2000.J2K, jpeg2000.J2K2, htj2k.HTJ2K)}
    codec = known.get(str(config.get("id")))
    if codec is None:
        raise InputError(f"codec {config.get('id')!r} is not known; known are {', '.join(known)}")
    made: LossyCodec = codec.from_config({k: v for k, v in config.items() if k != "id"})
    return made
