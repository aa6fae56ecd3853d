"""The header of an exported CBF image: Dectris' miniCBF lines, and imgCIF tables where these can't tell the geometry.

DIALS takes a miniCBF's gaps from its image size, and so refuses as a Pilatus or an Eiger what has no such detector's
size: a binned image goes by its size instead, under the convention for any detector.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from .placement import Placement

PILATUS = "PILATUS_1.2"
ANY_DETECTOR = "GENERIC_MINI"

SIZES = (
    ("PILATUS", (487, 7), (195, 17)),
    ("EIGER", (1030, 10), (514, 37)),
    ("EIGER", (1028, 12), (512, 38)),
)
"""Family, then (pixels of a module, of a gap) along fast and slow."""

SENSORS = {"Si": "Silicon", "CdTe": "CdTe", "GaAs": "GaAs"}

TIMES = ("%Y-%m-%dT%H:%M:%S", "%Y/%b/%d %H:%M:%S", "%Y-%b-%dT%H:%M:%S")


@dataclass(frozen=True)
class Told:
    """What the headers of a set tell, in the units of their lines; None is left out."""

    shape: tuple[int, int]
    """(ny, nx)."""
    detector: str
    serial: str
    material: str | None
    thickness: float | None
    exposure: float | None
    period: float | None
    cutoff: int | None
    threshold: float | None
    wavelength: float
    distance: float
    """Metres."""
    beam: tuple[float, float]
    """(x, y), pixels."""
    n_excluded: int
    start_time: str | None
    placement: Placement
    made_by: str
    """The last line: by this a later run knows its files."""


def family(shape: tuple[int, int]) -> str | None:
    """'PILATUS' or 'EIGER' where some such detector has images of this size, else None."""
    for name, fast, slow in SIZES:
        if all((n + gap) % (module + gap) == 0 for n, (module, gap) in zip(shape, (slow, fast), strict=True)):
            return name
    return None


def header(told: Told, image: int, name: str) -> str:
    """All before the binary section, of image `image`, counted from 0; `name` is the data block's."""
    known = family(told.shape)
    convention = PILATUS if known else ANY_DETECTOR
    contents = [f"# {line}" for line in _lines(told, image, known)]
    tables = [] if told.placement.is_plain else _tables(told, image).splitlines()
    lines = [
        "###CBF: VERSION 1.5, bnl_mpi",
        "",
        f"data_{name}",
        "",
        f'_array_data.header_convention "{convention}"',
        "_array_data.header_contents",
        ";",
        *contents,
        ";",
        "",
        *tables,
        "_array_data.data",
        ";",
        "",
    ]
    return "\r\n".join(lines)


def _detector(told: Told, known: str | None) -> str:
    """Readers look for PILATUS and EIGER in this line, and at the size then."""
    ny, nx = told.shape
    name = told.detector
    if known is None:
        name = f"{nx} x {ny} pixels"
    elif known not in name.upper():
        name = f"{'Dectris EIGER' if known == 'EIGER' else known} {nx} x {ny}"
    return f"{name}, S/N {told.serial or '0-0000'}"


def number(value: float) -> str:
    """With 13 digits, so that sums of steps come out round; without an exponent, which not every reader takes."""
    return np.format_float_positional(float(f"{value:.13g}"), trim="-")


def _lines(told: Told, image: int, known: str | None) -> list[str]:
    px, py = told.placement.pixel
    lines = [f"Detector: {_detector(told, known)}", _time(told, image)]
    lines.append(f"Pixel_size {number(px * 1e3)}e-6 m x {number(py * 1e3)}e-6 m")
    if told.thickness is not None:
        lines.append(f"{SENSORS.get(told.material or 'Si', 'Silicon')} sensor, thickness {told.thickness:.6f} m")
    period = told.period if told.period is not None else told.exposure
    optional: list[tuple[str, float | None, str]] = [
        ("Exposure_time", told.exposure, "s"),
        ("Exposure_period", period if period is not None else 0.0, "s"),
        ("Count_cutoff", told.cutoff, "counts"),
        ("Threshold_setting:", told.threshold, "eV"),
        ("N_excluded_pixels =", told.n_excluded, ""),
        ("Wavelength", told.wavelength, "A"),
        ("Detector_distance", told.distance, "m"),
    ]
    lines += [f"{key} {number(value)} {unit}".strip() for key, value, unit in optional if value is not None]
    x, y = told.beam
    lines.append(f"Beam_xy ({number(x)}, {number(y)}) pixels")
    return [*lines, *_angles(told.placement, image), told.made_by]


def _angles(placement: Placement, image: int) -> list[str]:
    moving = placement.moving or (placement.rotations[0] if placement.rotations else None)
    start = 0.0 if moving is None else moving.setting(image)
    turn = 0.0 if moving is None else moving.turn(image)
    lines = [f"Start_angle {number(start)} deg.", f"Angle_increment {number(turn)} deg."]
    lines += [f"{axis.name.capitalize()} {number(axis.setting(image))} deg." for axis in placement.rotations]
    return [*lines, f"Oscillation_axis {moving.name.upper()}"] if moving is not None else lines


def _time(told: Told, image: int) -> str:
    """The image's begin; DIALS takes no Pilatus header without one."""
    begin = _parsed(told.start_time or "")
    if begin is None:
        return "1970-01-01T00:00:00.000"
    begin += datetime.timedelta(seconds=image * (told.period or 0.0))
    return begin.isoformat(timespec="milliseconds")


def _parsed(text: str) -> datetime.datetime | None:
    text, _, fraction = text.strip().partition(".")
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    for form in TIMES:
        try:
            begin = datetime.datetime.strptime(text[:20].rstrip("Z+-"), form)
        except ValueError:
            continue
        return begin + datetime.timedelta(seconds=float(f"0.{digits}") if digits else 0.0)
    return None


# imgCIF


def _loop(category: str, items: str, rows: list[tuple[Any, ...]]) -> str:
    names = [f"_{category}.{item}" for item in items.split()]
    lines = [" ".join(number(v) if isinstance(v, float) else str(v) for v in row) for row in rows]
    return "\n".join(["loop_", *names, *lines, ""])


def _tables(told: Told, image: int) -> str:
    """The geometry alone, collapsed for the detector: its distance along z, and from there the pixels' own axes."""
    names = [f"GON_{axis.name.upper()}" for axis in told.placement.rotations]
    return "\n".join([*_parts(told, names), *_scan(told, names, image), _axes(told, names), *_array(told)])


def _parts(told: Told, names: list[str]) -> list[str]:
    """Beam, detector and goniometer, and what is made of what."""
    found = [
        "_diffrn.id DIFFRN1",
        _loop("diffrn_source", "diffrn_id source", [("DIFFRN1", "unknown")]),
        _loop("diffrn_radiation", "diffrn_id wavelength_id", [("DIFFRN1", "WAVELENGTH1")]),
        _loop("diffrn_radiation_wavelength", "id wavelength wt", [("WAVELENGTH1", told.wavelength, 1.0)]),
        _loop("diffrn_detector", "diffrn_id id number_of_axes", [("DIFFRN1", "DETECTOR1", 1)]),
        _loop("diffrn_detector_axis", "detector_id axis_id", [("DETECTOR1", "DET_Z")]),
        _loop("diffrn_detector_element", "id detector_id", [("ELEMENT1", "DETECTOR1")]),
        _loop("diffrn_data_frame", "id detector_element_id array_id binary_id", [("FRAME1", "ELEMENT1", "ARRAY1", 1)]),
    ]
    if names:
        items = "diffrn_id id number_of_axes method"
        found += [
            _loop("diffrn_measurement", items, [("DIFFRN1", "GON", len(names), "rotation")]),
            _loop("diffrn_measurement_axis", "measurement_id axis_id", [("GON", name) for name in names]),
        ]
    return found


def _scan(told: Told, names: list[str], image: int) -> list[str]:
    """The settings of all axes during the image."""
    distance, exposure = 1e3 * told.distance, told.exposure if told.exposure is not None else told.period or 0.0
    rotations = list(zip(names, told.placement.rotations, strict=True))
    angles = [(name, axis.setting(image), axis.turn(image)) for name, axis in rotations]
    starts: list[tuple[Any, ...]] = [("SCAN1", name, angle, turn, turn, 0.0, 0.0, 0.0) for name, angle, turn in angles]
    settings: list[tuple[Any, ...]] = [("FRAME1", name, angle, 0.0) for name, angle, _ in angles]
    begin = _time(told, image)
    return [
        _loop("diffrn_scan", "id frame_id_start frame_id_end frames", [("SCAN1", "FRAME1", "FRAME1", 1)]),
        _loop(
            "diffrn_scan_axis",
            "scan_id axis_id angle_start angle_range angle_increment displacement_start displacement_range "
            "displacement_increment",
            [*starts, ("SCAN1", "DET_Z", 0.0, 0.0, 0.0, distance, 0.0, 0.0)],
        ),
        _loop(
            "diffrn_scan_frame",
            "frame_id frame_number integration_time scan_id date",
            [("FRAME1", 1, exposure, "SCAN1", begin)],
        ),
        _loop(
            "diffrn_scan_frame_axis",
            "frame_id axis_id angle displacement",
            [*settings, ("FRAME1", "DET_Z", 0.0, distance)],
        ),
    ]


def _axes(told: Told, names: list[str]) -> str:
    place = told.placement
    corner = place.origin - np.array([0.0, 0.0, -1e3 * told.distance])
    still, none = (0.0, 0.0, 0.0), (".", ".", ".")
    rows: list[tuple[Any, ...]] = []
    for name, on, axis in zip(names, [".", *names], place.rotations, strict=False):
        rows.append((name, "rotation", "goniometer", on, *map(float, axis.vector), *still))
    rows += [
        ("SOURCE", "general", "source", ".", 0.0, 0.0, 1.0, *none),
        ("GRAVITY", "general", "gravity", ".", 0.0, -1.0, 0.0, *none),
        ("DET_Z", "translation", "detector", ".", 0.0, 0.0, -1.0, *still),
        ("ELEMENT_X", "translation", "detector", "DET_Z", *map(float, place.fast), *map(float, corner)),
        ("ELEMENT_Y", "translation", "detector", "ELEMENT_X", *map(float, place.slow), *still),
    ]
    vectors = " ".join(f"{what}[{k}]" for what in ("vector", "offset") for k in (1, 2, 3))
    return _loop("axis", f"id type equipment depends_on {vectors}", rows)


def _array(told: Told) -> list[str]:
    (px, py), (ny, nx) = told.placement.pixel, told.shape
    overload: Any = told.cutoff if told.cutoff is not None else "."
    return [
        _loop(
            "array_structure_list",
            "array_id index dimension precedence direction axis_set_id",
            [("ARRAY1", 1, nx, 1, "increasing", "ELEMENT_X"), ("ARRAY1", 2, ny, 2, "increasing", "ELEMENT_Y")],
        ),
        _loop(
            "array_structure_list_axis",
            "axis_set_id axis_id displacement displacement_increment",
            [("ELEMENT_X", "ELEMENT_X", 0.0, px), ("ELEMENT_Y", "ELEMENT_Y", 0.0, py)],
        ),
        _loop("array_element_size", "array_id index size", [("ARRAY1", 1, px / 1e3), ("ARRAY1", 2, py / 1e3)]),
        _loop(
            "array_intensities",
            "array_id binary_id linearity gain gain_esd overload undefined_value",
            [("ARRAY1", 1, "linear", 1.0, ".", overload, -1)],
        ),
        _loop(
            "array_structure",
            "id encoding_type compression_type byte_order",
            [("ARRAY1", '"signed 32-bit integer"', "CBF_BYTE_OFFSET", "little_endian")],
        ),
    ]
