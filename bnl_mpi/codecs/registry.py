"""Which lossy codecs there are.  A new one is a file with its class, and an entry in `CODECS`.

An entry tells what the command line must know before anything heavy is imported; the class tells the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, UsageError

if TYPE_CHECKING:
    from .contract import LossyCodec

DEFAULT_RATIO = 125
DEFAULT_SCALE = 16


@dataclass(frozen=True)
class Bound:
    """A bound on the errors, which a codec takes in place of its level: an option, and a field of `Options`."""

    name: str
    metavar: str
    help: str
    """Less the codec's flag."""


@dataclass(frozen=True)
class Entry:
    """A codec's option, and where its class is."""

    name: str
    """Its value of `Options.codec`, which provenance keeps: it never changes."""
    flag: str
    """`-X`; a number follows, its level."""
    option: str
    """`--name`."""
    metavar: str
    default: float
    """What the option means without a number, and with one below 1."""
    help: str
    code: str
    """`module:Class`, a relative module being one of this folder."""
    dtypes: tuple[str, ...] = ("uint16",)
    """The outputs that it can code."""
    whole: bool = False
    """Whether the level is cut to an integer."""
    bounds: tuple[Bound, ...] = ()
    chunks: str | None = None
    """The `-c` under which its codestreams are the images' chunks, if some HDF5 filter decodes them."""

    def level(self, asked: float | None) -> float:
        """The level that is meant.  125 and 125.0 are one setting, and must make one plan."""
        level = self.default if asked is None or asked < 1 else asked
        return int(level) if self.whole or level == int(level) else level

    def load(self) -> type[LossyCodec]:
        module, _, name = self.code.partition(":")
        found: type[LossyCodec] = getattr(importlib.import_module(module, __package__), name)
        return found


_COUNT_BOUNDS = (
    Bound("max_error", "COUNTS", "largest error of a pixel"),
    Bound("psnr", "DB", "least PSNR of an image, of 65535"),
    Bound("rms", "COUNTS", "largest rms error of an image"),
)

CODECS = [
    Entry(
        "hcompress", "-H", "--Hcompress", "SCALE", DEFAULT_SCALE, "HCompress with this scale",
        ".hcompress:HCompress", dtypes=("uint16", "uint32"), whole=True,
    ),
    Entry(
        "j2k", "-J", "--J2K", "RATIO", DEFAULT_RATIO, "JPEG 2000, reversible wavelet, layers down to this ratio",
        ".jpeg2000:J2K",
    ),
    Entry(
        "j2k2", "-K", "--J2K2", "RATIO", DEFAULT_RATIO, "JPEG 2000, irreversible 9/7 wavelet, one layer of this ratio",
        ".jpeg2000:J2K2",
    ),
    Entry(
        "htj2k", "-T", "--HTJ2K", "RATIO", DEFAULT_RATIO, "High-Throughput JPEG 2000, 9/7 wavelet, at this ratio",
        ".htj2k:HTJ2K", bounds=_COUNT_BOUNDS, chunks="htj2k",
    ),
]  # fmt: skip


def find(name: str) -> Entry | None:
    """The entry of that name."""
    return next((entry for entry in CODECS if entry.name == name), None)


def entry_of(name: str) -> Entry:
    """The entry of that name; raises UsageError where there is none."""
    if (found := find(name)) is None:
        raise UsageError(f"codec {name}: give one of {', '.join(entry.name for entry in CODECS)}")
    return found


def storing(compression: str) -> Entry | None:
    """The codec whose codestreams are chunks of that final filter; None for a filter of pixels."""
    return next((entry for entry in CODECS if entry.chunks == compression), None)


def flags(entries: Iterable[Entry] | None = None) -> str:
    """`-H, -J, ...`, for messages."""
    return ", ".join(entry.flag for entry in (CODECS if entries is None else entries))


def bounds() -> dict[str, list[Entry]]:
    """The names of all bounds, and the codecs that take each."""
    names = dict.fromkeys(bound.name for entry in CODECS for bound in entry.bounds)
    return {name: [e for e in CODECS if name in (b.name for b in e.bounds)] for name in names}


class Wanted(Protocol):
    """What is asked of a codec; `options.Options` does."""

    @property
    def codec(self) -> str | None: ...

    @property
    def codec_level(self) -> float | None: ...

    @property
    def error_target(self) -> tuple[str, float] | None: ...

    @property
    def codec_threads(self) -> int: ...


def make(options: Wanted) -> LossyCodec | None:
    """The codec that the options ask for, or None.  Imports that codec's library and no other's."""
    if options.codec is None:
        return None
    made = entry_of(options.codec).load()
    return made.for_options(options.codec_level, options.error_target, threads=options.codec_threads)


def from_config(config: dict[str, Any]) -> LossyCodec:
    """The codec of a squash file, by what its `get_config` gave; raises InputError for one that isn't ours."""
    known = {found.codec_id: found for found in (entry.load() for entry in CODECS)}
    codec = known.get(str(config.get("id")))
    if codec is None:
        raise InputError(f"codec {config.get('id')!r} is not known; known are {', '.join(known)}")
    made: LossyCodec = codec.from_config({k: v for k, v in config.items() if k != "id"})
    return made
