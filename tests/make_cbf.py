"""Small CBF series, written with fabio's compressor and headers as Dectris' programs and eiger2cbf write them."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fabio.ext import byte_offset

Array = np.ndarray[Any, Any]

PACKED: dict[str, Callable[[bytes], bytes]] = {".cbf": bytes, ".cbf.gz": gzip.compress, ".cbf.bz2": bz2.compress}


@dataclass(frozen=True)
class Made:
    """What the headers tell."""

    detector: str = "PILATUS 300K, S/N 3-0101"
    convention: str = "PILATUS_1.2"
    exposure: float = 0.0977
    period: float = 0.1
    cutoff: int | None = 9000
    wavelength: float | None = 0.9795
    distance: float | None = 0.2
    beam: tuple[float, float] = (240.5, 310.25)
    pixel: float = 172e-6
    start: float = 30.0
    increment: float = 0.1
    more: Mapping[str, str] = field(default_factory=dict)
    """Further lines."""
    tables: Callable[[int], str] = lambda frame: ""
    """imgCIF behind the header's text, of a frame counted from 0."""


def header(made: Made, frame: int, name: str) -> str:
    lines = [
        f"Detector: {made.detector}",
        f"2019-07-14T10:20:{frame:02d}.125",
        f"Pixel_size {made.pixel * 1e6:g}e-6 m x {made.pixel * 1e6:g}e-6 m",
        "Silicon sensor, thickness 0.001000 m",
        f"Exposure_time {made.exposure:.7f} s",
        f"Exposure_period {made.period:.7f} s",
        "Tau = 0 s",
        *([f"Count_cutoff {made.cutoff} counts"] if made.cutoff else []),
        "Threshold_setting: 6330 eV",
        *([f"Wavelength {made.wavelength:.5f} A"] if made.wavelength else []),
        *([f"Detector_distance {made.distance:.5f} m"] if made.distance else []),
        f"Beam_xy ({made.beam[0]:.2f}, {made.beam[1]:.2f}) pixels",
        f"Start_angle {made.start + frame * made.increment:.4f} deg.",
        f"Angle_increment {made.increment:.4f} deg.",
        *(f"{key} {value}" for key, value in made.more.items()),
    ]
    contents = "\r\n".join(f"# {line}" for line in lines)
    return "\r\n".join(
        [
            "###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors",
            "",
            f"data_{name}",
            "",
            f'_array_data.header_convention "{made.convention}"',
            "_array_data.header_contents",
            ";",
            contents,
            ";",
            "",
            *made.tables(frame).splitlines(),
            "_array_data.data",
            ";",
            "",
        ]
    )


def cbf_bytes(pixels: Array, made: Made, frame: int = 0, name: str = "image") -> bytes:
    """One file: `pixels` is (ny, nx) int32."""
    stream = bytes(byte_offset.comp_cbf32(np.ascontiguousarray(pixels, np.int32).ravel()))
    ny, nx = pixels.shape
    section = "\r\n".join(
        [
            "--CIF-BINARY-FORMAT-SECTION--",
            "Content-Type: application/octet-stream;",
            '     conversions="x-CBF_BYTE_OFFSET"',
            "Content-Transfer-Encoding: BINARY",
            f"X-Binary-Size: {len(stream)}",
            "X-Binary-ID: 1",
            'X-Binary-Element-Type: "signed 32-bit integer"',
            "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
            f"Content-MD5: {base64.b64encode(hashlib.md5(stream).digest()).decode()}",
            f"X-Binary-Number-of-Elements: {nx * ny}",
            f"X-Binary-Size-Fastest-Dimension: {nx}",
            f"X-Binary-Size-Second-Dimension: {ny}",
            "X-Binary-Size-Padding: 4095",
            "",
            "",
        ]
    )
    before = (header(made, frame, name) + section).encode()
    after = bytes(4095) + b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n"
    return before + b"\x0c\x1a\x04\xd5" + stream + after


def write_series(
    folder: Path,
    frames: Array,
    made: Made | None = None,
    *,
    stem: str = "lyso_1_",
    first: int = 1,
    suffix: str = ".cbf",
) -> list[Path]:
    """Write `frames`, (n, ny, nx), and return the files' paths."""
    paths = []
    for k, pixels in enumerate(frames):
        path = folder / f"{stem}{first + k:05d}{suffix}"
        path.write_bytes(PACKED[suffix](cbf_bytes(pixels, made or Made(), k, path.name.split(".")[0])))
        paths.append(path)
    return paths


def counts(n: int, shape: tuple[int, int], seed: int = 1) -> Array:
    """(n, ny, nx) int32: few counts, some strong ones, a gap of -1 and bad pixels of -2, some in one frame alone."""
    rng = np.random.default_rng(seed)
    frames = rng.poisson(2, (n, *shape)).astype(np.int32)
    strong = rng.random(frames.shape) < 0.01
    frames[strong] = rng.integers(0, 20000, int(strong.sum()))
    frames[rng.random(frames.shape) < 0.002] = -2
    frames[:, rng.random(shape) < 0.01] = -2
    frames[:, shape[0] // 2 : shape[0] // 2 + 3] = -1
    frames[:, :, shape[1] // 3 : shape[1] // 3 + 4] = -1
    return frames


def mask_of(frames: Array) -> Array:
    """(ny, nx): 1 where the first, the middle and the last frame have -1, 2 where they have -2, else 0."""
    chosen = [frames[0], frames[len(frames) // 2], frames[-1]]
    bad = np.logical_and.reduce([one < 0 for one in chosen])
    return np.where(bad, np.where(frames[0] == -1, 1, 2), 0).astype(np.uint32)
