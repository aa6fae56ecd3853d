"""What a JPEG 2000 codestream's main header tells (ITU-T T.800, annex A), read without a library.

The libraries trust it: sizes that don't fit the data make them ask for gigabytes, run for ever or crash.  So before a
codestream of a file is decoded, its header is held against what the file's owner says of its images.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

_SOC, _SIZ, _CAP, _COD, _QCD, _TLM, _COM, _SOT = 0xFF4F, 0xFF51, 0xFF50, 0xFF52, 0xFF5C, 0xFF55, 0xFF64, 0xFF90
_IN_HEADER = {_CAP, _COD, _QCD, _TLM, _COM}
"""Segments between SIZ and the first tile-part; what else there may be, our encoders don't write."""

_HIGH_THROUGHPUT = 0x40
_BLOCK_64 = 4
"""Code blocks of 64 pixels a side."""
_MOST_LAYERS = 32
_STEP_BYTES = {0: 1, 2: 2}
"""Of a subband in QCD, by the style: an exponent alone, or with a mantissa."""
_MOST_BITPLANES = 28
"""Guard bits and exponent; beyond, decoders leave their 32 bits."""


@dataclass(frozen=True)
class Header:
    """The main header of a codestream of one component in one tile."""

    shape: tuple[int, int]
    """(ny, nx)"""
    bits: int
    signed: bool
    layers: int
    decompositions: int
    reversible: bool
    high_throughput: bool


def read_header(codestream: Any) -> Header:
    """The header of a codestream as our encoders write it; raises InputError for any other."""
    data = memoryview(codestream).cast("B")
    if len(data) < 2 or _u2(data, 0) != _SOC:
        raise InputError(f"{len(data)} bytes that are no JPEG 2000 codestream")
    marker, siz, at = _segment(data, 2)
    if marker != _SIZ:
        raise InputError("a JPEG 2000 codestream without SIZ at its beginning")
    shape, bits, signed, rsiz = _read_siz(siz)
    found: dict[int, memoryview] = {}
    while True:
        marker, body, at = _segment(data, at)
        if marker == _SOT:
            break
        if marker not in _IN_HEADER or (marker in found and marker != _COM):
            raise InputError(f"a codestream with the segment {marker:04x} in its header, which isn't expected there")
        found[marker] = body
    _check_tile_part(body, len(data) - (at - 12))
    for wanted, name in ((_COD, "COD"), (_QCD, "QCD")):
        if wanted not in found:
            raise InputError(f"a codestream without {name}")
    layers, decompositions, reversible, high_throughput = _read_cod(found[_COD])
    if high_throughput != (_CAP in found) or high_throughput != bool(rsiz):
        raise InputError("a codestream whose SIZ, CAP and COD don't agree on what it is coded with")
    _check_qcd(found[_QCD], decompositions)
    return Header(shape, bits, signed, layers, decompositions, reversible, high_throughput)


def check(
    codestream: Any, shape: tuple[int, int], dtype: str | np.dtype[Any], *, high_throughput: bool, decompositions: int
) -> None:
    """Raise InputError unless the codestream is one image (ny, nx) of that integer type, as our encoders write it.

    `decompositions` is how many such an image gets.
    """
    header, wanted = read_header(codestream), np.dtype(dtype)
    if header.shape != shape:
        raise InputError(f"a codestream of {_size(header.shape)} pixels, where the set has images of {_size(shape)}")
    kind = (wanted.itemsize * 8, wanted.kind == "i")
    if (header.bits, header.signed) != kind:
        raise InputError(f"a codestream of {header.bits}-bit pixels, where the set has images of {wanted}")
    if header.high_throughput != high_throughput:
        other = "HTJ2K" if header.high_throughput else "JPEG 2000"
        raise InputError(f"a codestream of {other}, where the set tells of another codec")
    # A single pixel has nothing to decompose: OpenJPH up to 0.26 wrote what it was told, later ones none.
    if header.decompositions != decompositions and not (shape == (1, 1) and header.decompositions == 0):
        raise InputError(
            f"a codestream of {header.decompositions} decompositions, where such an image has {decompositions}"
        )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _u2(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _segment(data: memoryview, at: int) -> tuple[int, memoryview, int]:
    """(marker, what follows the length, where the next segment begins)."""
    marker, length = _u2(data, at), _u2(data, at + 2)
    end = at + 2 + length
    if length < 2 or end > len(data):
        raise InputError(f"a codestream whose header ends within a segment ({len(data)} bytes)")
    return marker, data[at + 4 : end], end


def _read_siz(body: memoryview) -> tuple[tuple[int, int], int, bool, int]:
    """(shape, bits, signed, capabilities)."""
    if len(body) != 39:
        raise InputError(f"a codestream whose SIZ has {len(body)} bytes, not the 39 of one component")
    rsiz, nx, ny, x0, y0, tx, ty, tx0, ty0, n_components, depth, dx, dy = struct.unpack(">H8IH3B", body)
    if n_components != 1:
        raise InputError(f"a codestream of {n_components} components, not of one")
    if (x0, y0, tx0, ty0, dx, dy) != (0, 0, 0, 0, 1, 1) or (tx, ty) != (nx, ny) or not nx * ny:
        raise InputError(f"a codestream of {nx} x {ny} pixels in tiles of {tx} x {ty}, not in one tile from the origin")
    if rsiz not in (0, 0x4000):
        raise InputError(f"a codestream of capabilities {rsiz:04x}, which aren't expected")
    return (ny, nx), (depth & 0x7F) + 1, bool(depth & 0x80), rsiz


def _read_cod(body: memoryview) -> tuple[int, int, bool, bool]:
    """(layers, decompositions, reversible, high throughput)."""
    if len(body) != 10:
        raise InputError(f"a codestream whose COD has {len(body)} bytes, not 10")
    style, order, layers, transform, levels, width, height, blocks, wavelet = struct.unpack(">2BH6B", body)
    if style or order > 4 or not 1 <= layers <= _MOST_LAYERS or transform or (width, height) != (_BLOCK_64, _BLOCK_64):
        raise InputError("a codestream whose COD tells of settings that aren't expected")
    if blocks not in (0, _HIGH_THROUGHPUT) or wavelet > 1 or levels > 32:
        raise InputError("a codestream whose COD tells of blocks or a wavelet that aren't expected")
    return layers, levels, wavelet == 1, blocks == _HIGH_THROUGHPUT


def _check_qcd(body: memoryview, decompositions: int) -> None:
    style, guard_bits = (body[0] & 0x1F, body[0] >> 5) if body else (-1, 0)
    n_bytes = _STEP_BYTES.get(style, 0)
    if not n_bytes or len(body) != 1 + n_bytes * (3 * decompositions + 1):
        raise InputError(f"a codestream whose QCD doesn't fit its {decompositions} decompositions")
    most = guard_bits + max(first >> 3 for first in body[1::n_bytes])
    if most > _MOST_BITPLANES:
        raise InputError(f"a codestream whose QCD tells of {most} bitplanes, more than images of 16 bits have")


def _check_tile_part(body: memoryview, n_bytes: int) -> None:
    """`n_bytes` from the SOT marker to the end of the codestream."""
    if len(body) != 8:
        raise InputError("a codestream whose SOT has not 10 bytes")
    tile, length, part, _ = struct.unpack(">HI2B", body)
    if tile or part or not (length == 0 or 14 <= length <= n_bytes):
        raise InputError(f"a codestream whose first tile-part, of {length} bytes, doesn't fit its {n_bytes} bytes")
