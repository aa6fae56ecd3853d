"""Where detector and crystal stand, as NeXus' chains of axes: from imgCIF's axis tables, else from a miniCBF header.

imgCIF's laboratory has x along the spindle and z towards the source, NeXus' z along the beam and y up: (x, y, z) of
the one is (-x, y, -z) of the other.  Both count an axis' offset in the frame that it depends on, with all axes at
zero.  Source: the imgCIF dictionary, categories axis, diffrn_scan_frame_axis and array_structure_list_axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from .cif import Row
from .header import NUMBER, Header, detector_name

Vector = npt.NDArray[np.float64]

TO_NEXUS = np.array([-1.0, 1.0, -1.0])

SPINDLES = {
    "60-0114": (0.0, 1.0, 0.0),
    "60-0115-F": (0.0, 1.0, 0.0),
    "E-32-0105": (0.0, 1.0, 0.0),
    "E-32-0107": (0.0, 1.0, 0.0),
    "60-0125": (-1.0, 0.0, 0.0),
    "60-0127": (-1.0, 0.0, 0.0),
    "60-0132": (-1.0, 0.0, 0.0),
}
"""By a detector's serial number, the spindle in imgCIF's frame where it isn't +x: a miniCBF header doesn't tell."""

ROTATIONS = ("omega", "phi", "chi", "kappa", "alpha")
STANDSTILL = 1e-4
"""Degrees or millimetres: nearer settings are one."""


@dataclass(frozen=True)
class Axis:
    """A link of a chain, in NeXus' frame; degrees or millimetres."""

    name: str
    kind: str
    """'rotation' or 'translation'."""
    vector: Vector
    offset: Vector
    depends_on: str
    """A name, or '.'."""
    settings: Vector
    """(n_frames,), or (1,) where it doesn't move."""
    increments: Vector | None = None
    """(n_frames,): how far it turns during each frame; None where it doesn't."""


@dataclass(frozen=True)
class Geometry:
    """All that stands in space.  Directions are unit vectors in NeXus' frame, lengths in millimetres."""

    detector: tuple[Axis, ...]
    """Outermost first; the last one carries the module."""
    module_offset: Vector
    """From the last axis to the outer corner of the first pixel."""
    fast: Vector
    slow: Vector
    pixel: tuple[float, float]
    """(fast, slow)."""
    distance: float
    """From the crystal to the detector's plane."""
    beam_centre: tuple[float, float]
    """(x, y) in pixels: as the header has it, else where the beam meets the plane."""
    goniometer: tuple[Axis, ...]
    """Outermost first; the crystal sits on the last one.  Empty where nothing rotates."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Angles that are told without a direction, in degrees."""
    warnings: tuple[str, ...] = ()


def geometry(headers: Sequence[Header]) -> Geometry:
    """The geometry of a series, of which each frame has its header; InputError where it lacks what is needed."""
    if "axis" in headers[0].tables and "array_structure_list" in headers[0].tables:
        return _from_tables(headers)
    return _from_fields(headers)


def to_nexus(vector: npt.ArrayLike) -> Vector:
    """A vector of imgCIF's frame in NeXus'."""
    turned: Vector = np.asarray(vector, dtype=np.float64) * TO_NEXUS + 0.0
    return turned


def rotated(vector: Vector, axis: Vector, degrees: float) -> Vector:
    """The vector, turned about a unit vector."""
    angle = np.deg2rad(degrees)
    along = axis * float(axis @ vector)
    turned: Vector = along + (vector - along) * np.cos(angle) + np.cross(axis, vector) * np.sin(angle)
    return turned


def laboratory(axes: Sequence[Axis], point: Vector, *, direction: bool = False) -> Vector:
    """A point (or a direction) on the last of `axes`, outermost first, in the laboratory, at their first settings."""
    for axis in reversed(axes):
        if axis.kind == "rotation":
            point = rotated(point, axis.vector, float(axis.settings[0]))
        elif not direction:
            point = point + axis.vector * float(axis.settings[0])
        if not direction:
            point = point + axis.offset
    return point


# imgCIF


def _from_tables(headers: Sequence[Header]) -> Geometry:
    first = headers[0]
    rows = {row["id"]: row for row in first.tables["axis"] if "id" in row}
    _check_source(first, rows)
    elements = _elements(first)
    detector_rows = _chain(first, rows, _outer_of(first, rows, [name for name, *_ in elements]))
    detector = tuple(_resting(headers, row) for row in detector_rows)
    offset = np.zeros(3)
    directions, sizes = [], []
    for name, displacement, increment in elements:
        vector = _vector(first, rows[name])
        sense = 1.0 if increment > 0 else -1.0
        directions.append(sense * vector)
        sizes.append(abs(increment))
        offset = offset + _offset(rows[name]) + vector * displacement
    distance, centre = _distance_and_centre(detector, offset, directions, sizes)
    goniometer = tuple(_moving(headers, row) for row in _goniometer_rows(first, rows))
    return Geometry(
        detector,
        offset,
        directions[0],
        directions[1],
        (sizes[0], sizes[1]),
        distance,
        _told_centre(first) or centre,
        goniometer,
    )


def _check_source(header: Header, rows: Mapping[str, Row]) -> None:
    for row in rows.values():
        if row.get("equipment", "").lower() == "source":
            direction = _vector(header, row)
            if not np.allclose(direction, (0, 0, -1), atol=1e-6):
                raise InputError(
                    f"{header.path}: the axis {row['id']} has the source elsewhere than along z, which isn't read"
                )


def _number(row: Row, item: str) -> float:
    found = NUMBER.fullmatch(row.get(item, "."))
    return float(found[0]) if found else 0.0


def _vector(header: Header, row: Row) -> Vector:
    vector = np.array([_number(row, f"vector[{k}]") for k in (1, 2, 3)])
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise InputError(f"{header.path}: the axis {row.get('id')} has no direction")
    return to_nexus(vector / length)


def _offset(row: Row) -> Vector:
    return to_nexus([_number(row, f"offset[{k}]") for k in (1, 2, 3)])


def _elements(header: Header) -> list[tuple[str, float, float]]:
    """(axis, where the first pixel's corner is, pixel size with its sign), in mm, of the fast and the slow axis."""
    by_set = {row.get("axis_set_id"): row for row in header.tables.get("array_structure_list_axis", ())}
    ranked = sorted(header.tables["array_structure_list"], key=lambda row: _number(row, "precedence"))
    found = []
    for row in ranked[:2]:
        axis = by_set.get(row.get("axis_set_id"))
        name = (axis or {}).get("axis_id", row.get("axis_set_id", ""))
        increment = _number(axis or {}, "displacement_increment")
        increment = increment or 1e3 * _element_size(header, row)
        if not increment or name not in {one.get("id") for one in header.tables["axis"]}:
            raise InputError(
                f"{header.path}: the imgCIF tables don't tell pixel size and axis of {row.get('axis_set_id')}"
            )
        sense = -1.0 if row.get("direction", "increasing").lower() == "decreasing" else 1.0
        found.append((name, _number(axis or {}, "displacement"), sense * increment))
    if len(found) < 2:
        raise InputError(f"{header.path}: the imgCIF table array_structure_list tells of one direction only")
    return found


def _element_size(header: Header, row: Row) -> float:
    """In metres."""
    sizes = {one.get("index"): one for one in header.tables.get("array_element_size", ())}
    return _number(sizes.get(row.get("index"), {}), "size")


def _outer_of(header: Header, rows: Mapping[str, Row], names: list[str]) -> str:
    """The axis that carries the module: what the pixels' own axes depend on, one of which may carry the other."""
    outer = {rows[name].get("depends_on", ".") for name in names} - set(names)
    if len(outer) != 1:
        raise InputError(f"{header.path}: the pixels' axes {' and '.join(names)} depend on different ones")
    return outer.pop()


def _chain(header: Header, rows: Mapping[str, Row], name: str) -> list[Row]:
    """The rows from the outermost axis to `name`."""
    found: list[Row] = []
    while name not in (".", "", "?"):
        if name not in rows or len(found) > len(rows):
            raise InputError(f"{header.path}: the imgCIF axis {name} is missing, or depends on itself")
        found.insert(0, rows[name])
        name = rows[name].get("depends_on", ".")
    return found


def _goniometer_rows(header: Header, rows: Mapping[str, Row]) -> list[Row]:
    mounted = {name: row for name, row in rows.items() if row.get("equipment", "").lower() == "goniometer"}
    carrying = {row.get("depends_on") for row in mounted.values()}
    ends = [name for name in mounted if name not in carrying]
    if len(ends) > 1:
        raise InputError(f"{header.path}: the crystal can't sit on {' and '.join(ends)} at once")
    return _chain(header, rows, ends[0]) if ends else []


def _setting(header: Header, row: Row) -> float:
    """Angle or displacement of an axis in a frame: the frame's own, else the scan's start."""
    item = "angle" if row.get("type") == "rotation" else "displacement"
    for category, name in (("diffrn_scan_frame_axis", item), ("diffrn_scan_axis", f"{item}_start")):
        for told in header.tables.get(category, ()):
            if told.get("axis_id") == row["id"] and NUMBER.fullmatch(told.get(name, ".")):
                return float(told[name])
    return 0.0


def _turn(header: Header, row: Row) -> float:
    for told in header.tables.get("diffrn_scan_axis", ()):
        if told.get("axis_id") == row["id"]:
            return _number(told, "angle_increment")
    return 0.0


def _resting(headers: Sequence[Header], row: Row) -> Axis:
    """A detector's axis, which must stand still."""
    first = _setting(headers[0], row)
    for header in headers[1:]:
        if abs(_setting(header, row) - first) > STANDSTILL:
            raise InputError(
                f"{header.path}: the detector's axis {row['id']} is at {_setting(header, row):g}, but at {first:g} in "
                f"the first image; a series is of one experiment"
            )
    return _axis(headers[0], row, np.array([first]), None)


def _moving(headers: Sequence[Header], row: Row) -> Axis:
    settings = np.array([_setting(header, row) for header in headers])
    turns = np.array([_turn(header, row) for header in headers])
    if np.ptp(settings) <= STANDSTILL and not turns.any():
        return _axis(headers[0], row, settings[:1], None)
    return _axis(headers[0], row, settings, turns if turns.any() else None)


def _axis(header: Header, row: Row, settings: Vector, increments: Vector | None) -> Axis:
    kind = "rotation" if row.get("type") == "rotation" else "translation"
    on = row.get("depends_on", ".")
    depends_on = plain_name(on) if on not in (".", "", "?") else "."
    return Axis(plain_name(row["id"]), kind, _vector(header, row), _offset(row), depends_on, settings, increments)


def plain_name(name: str) -> str:
    """`GON_OMEGA` is omega, `DET_2THETA` two_theta: the names that readers know; others in lower case."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "2theta" in words or "twotheta" in words or words[-2:] == ["two", "theta"]:
        return "two_theta"
    return next((word for word in words if word in ROTATIONS), re.sub(r"[^a-z0-9]+", "_", name.lower()))


def _distance_and_centre(
    detector: Sequence[Axis], offset: Vector, directions: Sequence[Vector], sizes: Sequence[float]
) -> tuple[float, tuple[float, float]]:
    """Distance of the plane in mm, and the pixel where the beam meets it."""
    origin = laboratory(detector, offset)
    fast, slow = (laboratory(detector, one, direction=True) for one in directions)
    normal = np.cross(fast, slow)
    distance = abs(float(normal @ origin))
    if abs(normal[2]) < 1e-6:
        return distance, (0.0, 0.0)
    spot = np.array([0.0, 0.0, float(normal @ origin) / normal[2]]) - origin
    return distance, (float(spot @ fast) / sizes[0], float(spot @ slow) / sizes[1])


def _told_centre(header: Header) -> tuple[float, float] | None:
    told = header.numbers("Beam_xy")
    return (told[0], told[1]) if len(told) > 1 else None


# miniCBF


def _from_fields(headers: Sequence[Header]) -> Geometry:
    """A detector that faces the beam, fast towards imgCIF's x and slow against y, and a spindle along x.

    A detector's two theta is taken as a turn about the spindle, as it is built; the header doesn't tell.
    """
    first = headers[0]
    distance, size, centre = first.number("Detector_distance"), first.numbers("Pixel_size"), _told_centre(first)
    lacking = [
        name for name, told in (("Detector_distance", distance), ("Pixel_size", size), ("Beam_xy", centre)) if not told
    ]
    if not distance or not size or not centre:
        raise InputError(f"{first.path}: its header lacks {' and '.join(lacking)}, and so the detector's place")
    pixel = (1e3 * size[0], 1e3 * size[-1])
    fast, slow = to_nexus((1.0, 0.0, 0.0)), to_nexus((0.0, -1.0, 0.0))
    offset = -(pixel[0] * centre[0] * fast + pixel[1] * centre[1] * slow)
    spindle = to_nexus(SPINDLES.get(detector_name(first)[1], (1.0, 0.0, 0.0)))
    still = np.zeros(3)
    along = Axis("det_z", "translation", np.array([0.0, 0.0, 1.0]), still, ".", np.array([1e3 * distance]))
    detector: tuple[Axis, ...] = (along,)
    warnings = []
    two_theta = first.number("Detector_2theta") or 0.0
    if abs(two_theta) > STANDSTILL:
        warnings.append(
            f"{first.path}: the detector's two theta of {two_theta:g} degrees is taken as a turn about the spindle; "
            "a miniCBF header doesn't tell its direction"
        )
        turn = Axis("two_theta", "rotation", spindle, still, ".", np.array([two_theta]))
        detector = (turn, Axis(along.name, along.kind, along.vector, still, "two_theta", along.settings))
    goniometer, settings = _spindle(headers, spindle, warnings)
    plane = _distance_and_centre(detector, offset, (fast, slow), pixel)[0]
    return Geometry(detector, offset, fast, slow, pixel, plane, centre, goniometer, settings, tuple(warnings))


def _spindle(
    headers: Sequence[Header], direction: Vector, warnings: list[str]
) -> tuple[tuple[Axis, ...], dict[str, float]]:
    """The axis that turns, and the angles of the others."""
    first = headers[0]
    name = plain_name(first.fields.get("Oscillation_axis", "omega").split(",")[0])
    name = name if name in ROTATIONS else "omega"
    others = {one: first.number(one.capitalize()) for one in ROTATIONS if one != name}
    settings = {one: angle for one, angle in others.items() if angle is not None}
    if abs(settings.get("kappa", 0.0)) > STANDSTILL:
        warnings.append(
            f"{first.path}: kappa is at {settings['kappa']:g} degrees; a miniCBF header doesn't tell its direction, so "
            f"{name} is the only axis of the crystal's chain"
        )
    if first.number("Start_angle") is None:
        return (), settings
    starts = np.array([header.number("Start_angle") or 0.0 for header in headers])
    turns = np.array([header.number("Angle_increment") or 0.0 for header in headers])
    moves = bool(turns.any()) or float(np.ptp(starts)) > STANDSTILL
    axis = Axis(
        name, "rotation", direction, np.zeros(3), ".", starts if moves else starts[:1], turns if turns.any() else None
    )
    return (axis,), settings
