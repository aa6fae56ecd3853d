"""Geometry from imgCIF's axis tables.

Source: the imgCIF dictionary, categories axis, diffrn_scan_frame_axis and array_structure_list_axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import InputError
from .cif import Row
from .geometry import (
    STANDSTILL,
    Axis,
    Geometry,
    Vector,
    distance_and_centre,
    go_on,
    plain_name,
    to_nexus,
    told_centre,
)
from .header import NUMBER, Header


def has_tables(header: Header) -> bool:
    """Whether a header has the tables that a geometry can be read from."""
    return "axis" in header.tables and "array_structure_list" in header.tables


def geometry(headers: Sequence[Header]) -> Geometry:
    """The geometry of a series, of which each frame has its header; InputError where it lacks what is needed."""
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
    distance, centre = distance_and_centre(detector, offset, directions, sizes)
    goniometer = tuple(_moving(headers, row) for row in _goniometer_rows(first, rows))
    return Geometry(
        detector,
        offset,
        directions[0],
        directions[1],
        (sizes[0], sizes[1]),
        distance,
        told_centre(first) or centre,
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
    go_on(headers, settings, turns)
    if np.ptp(settings) <= STANDSTILL and not turns.any():
        return _axis(headers[0], row, settings[:1], None)
    return _axis(headers[0], row, settings, turns if turns.any() else None)


def _axis(header: Header, row: Row, settings: Vector, increments: Vector | None) -> Axis:
    kind = "rotation" if row.get("type") == "rotation" else "translation"
    on = row.get("depends_on", ".")
    depends_on = plain_name(on) if on not in (".", "", "?") else "."
    return Axis(plain_name(row["id"]), kind, _vector(header, row), _offset(row), depends_on, settings, increments)
