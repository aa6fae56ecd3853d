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


def kappa_tables(displacement: float = 0.0, scan: str = "PHI") -> Callable[[int], str]:
    """imgCIF of a kappa goniometer that turns about `scan`, and a detector on two theta with offsets everywhere.

    `displacement` is where the first pixel's edge is on the fast axis, in mm; see `Made.tables`.
    """

    def tables(frame: int) -> str:
        angles = {"OMEGA": 40.0, "KAPPA": 33.0, "PHI": -70.0}
        turns = {name: 0.1 if name == scan else 0.0 for name in angles}
        angles[scan] = 30.0 + 0.1 * frame
        settings = [f"FRAME1 GON_{name} {angle:.4f} 0.0" for name, angle in angles.items()]
        starts = [f"SCAN1 GON_{name} {angle:.4f} {turns[name]} {turns[name]} 0 0 0" for name, angle in angles.items()]
        return f"""_diffrn.id SOMEWHERE
loop_
_diffrn_source.diffrn_id
_diffrn_source.source
SOMEWHERE synchrotron
loop_
_diffrn_radiation.diffrn_id
_diffrn_radiation.wavelength_id
_diffrn_radiation.polarizn_source_ratio
_diffrn_radiation.polarizn_source_norm
SOMEWHERE W1 0.8 0.0
loop_
_diffrn_detector.diffrn_id
_diffrn_detector.id
_diffrn_detector.number_of_axes
SOMEWHERE D1 3
loop_
_diffrn_detector_axis.detector_id
_diffrn_detector_axis.axis_id
D1 DET_2THETA
D1 DET_Z
D1 DET_Y
loop_
_diffrn_detector_element.id
_diffrn_detector_element.detector_id
ELEMENT1 D1
loop_
_diffrn_data_frame.id
_diffrn_data_frame.detector_element_id
_diffrn_data_frame.array_id
_diffrn_data_frame.binary_id
FRAME1 ELEMENT1 ARRAY1 1
loop_
_diffrn_scan.id
_diffrn_scan.frame_id_start
_diffrn_scan.frame_id_end
_diffrn_scan.frames
SCAN1 FRAME1 FRAME1 1
loop_
_diffrn_measurement.diffrn_id
_diffrn_measurement.id
_diffrn_measurement.number_of_axes
_diffrn_measurement.method
SOMEWHERE GONIOMETER 3 rotation
loop_
_diffrn_measurement_axis.measurement_id
_diffrn_measurement_axis.axis_id
GONIOMETER GON_OMEGA
GONIOMETER GON_KAPPA
GONIOMETER GON_PHI
loop_
_diffrn_radiation_wavelength.id
_diffrn_radiation_wavelength.wavelength
_diffrn_radiation_wavelength.wt
W1 0.9795 1
loop_
_diffrn_scan_axis.scan_id
_diffrn_scan_axis.axis_id
_diffrn_scan_axis.angle_start
_diffrn_scan_axis.angle_range
_diffrn_scan_axis.angle_increment
_diffrn_scan_axis.displacement_start
_diffrn_scan_axis.displacement_range
_diffrn_scan_axis.displacement_increment
{chr(10).join(starts)}
SCAN1 DET_2THETA 12.5 0 0 0 0 0
SCAN1 DET_Z 0 0 0 180.0 0 0
SCAN1 DET_Y 0 0 0 3.5 0 0
loop_
_diffrn_scan_frame.frame_id
_diffrn_scan_frame.frame_number
_diffrn_scan_frame.integration_time
_diffrn_scan_frame.exposure_time
_diffrn_scan_frame.scan_id
_diffrn_scan_frame.date
FRAME1 1 0.0977 0.1 SCAN1 2019-07-14T10:20:{frame:02d}.125
loop_
_diffrn_scan_frame_axis.frame_id
_diffrn_scan_frame_axis.axis_id
_diffrn_scan_frame_axis.angle
_diffrn_scan_frame_axis.displacement
{chr(10).join(settings)}
FRAME1 DET_2THETA 12.5 0.0
FRAME1 DET_Z 0.0 180.0
FRAME1 DET_Y 0.0 3.5
loop_
_axis.id
_axis.type
_axis.equipment
_axis.depends_on
_axis.vector[1] _axis.vector[2] _axis.vector[3]
_axis.offset[1] _axis.offset[2] _axis.offset[3]
GON_OMEGA rotation goniometer . 1 0 0 . . .
GON_KAPPA rotation goniometer GON_OMEGA 0.64279 -0.76604 0 . . .
GON_PHI rotation goniometer GON_KAPPA 1 0 0 . . .
SOURCE general source . 0 0 1 . . .
GRAVITY general gravity . 0 -1 0 . . .
DET_2THETA rotation detector . 1 0 0 0.25 -1.5 4.0
DET_Z translation detector DET_2THETA 0 0 -1 0 0.75 0
DET_Y translation detector DET_Z 0 1 0 0 0 -0.5
ELEMENT_X translation detector DET_Y 1 0 0 -41.5 54.25 0.125
ELEMENT_Y translation detector ELEMENT_X 0 -1 0 0 0 0
loop_
_array_structure_list.array_id
_array_structure_list.index
_array_structure_list.dimension
_array_structure_list.precedence
_array_structure_list.direction
_array_structure_list.axis_set_id
ARRAY1 1 487 1 increasing ELEMENT_X
ARRAY1 2 619 2 increasing ELEMENT_Y
loop_
_array_structure_list_axis.axis_set_id
_array_structure_list_axis.axis_id
_array_structure_list_axis.displacement
_array_structure_list_axis.displacement_increment
ELEMENT_X ELEMENT_X {displacement} 0.1720
ELEMENT_Y ELEMENT_Y 0.0 0.1720
loop_
_array_element_size.array_id
_array_element_size.index
_array_element_size.size
ARRAY1 1 0.000172
ARRAY1 2 0.000172
loop_
_array_intensities.array_id
_array_intensities.binary_id
_array_intensities.linearity
_array_intensities.gain
_array_intensities.gain_esd
_array_intensities.overload
_array_intensities.undefined_value
ARRAY1 1 linear 1.0 . 9000 -1
loop_
_array_structure.id
_array_structure.encoding_type
_array_structure.compression_type
_array_structure.byte_order
ARRAY1 "signed 32-bit integer" CBF_BYTE_OFFSET little_endian"""

    return tables
