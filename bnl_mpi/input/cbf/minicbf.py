"""Geometry from the lines of a miniCBF header."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import InputError
from .geometry import (
    ROTATIONS,
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
from .header import Header, detector_name

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


def geometry(headers: Sequence[Header]) -> Geometry:
    """A detector that faces the beam, fast towards imgCIF's x and slow against y, and a spindle along x.

    A detector's two theta is taken as a turn about the spindle, as it is built; the header doesn't tell.
    """
    first = headers[0]
    distance, size, centre = first.number("Detector_distance"), first.numbers("Pixel_size"), told_centre(first)
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
    plane = distance_and_centre(detector, offset, (fast, slow), pixel)[0]
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
    go_on(headers, starts, turns)
    moves = bool(turns.any()) or float(np.ptp(starts)) > STANDSTILL
    axis = Axis(
        name, "rotation", direction, np.zeros(3), ".", starts if moves else starts[:1], turns if turns.any() else None
    )
    return (axis,), settings
