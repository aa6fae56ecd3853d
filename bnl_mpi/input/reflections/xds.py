"""XDS's files: INTEGRATE.HKL, XDS_ASCII.HKL and SPOT.XDS.

XDS counts pixels from the first one's centre, so half a pixel is added.  Its z is a position among the images by
their numbers: image 1 is 0 to 1, whatever STARTING_FRAME, which only says to which image STARTING_ANGLE belongs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

import numpy as np

from ...errors import InputError
from .value import Array, Reflections, check_finite, told_radius

ORIGIN = 0.5

N_SIGMA = 3.0
"""XDS integrates as far as about three standard deviations of its profile."""

LEAST_ZETA = 0.05
"""Nearer to the rotation axis reflections are as good as never-ending; nobody integrates them."""


def is_hkl(head: bytes) -> bool:
    """Whether a file that begins with `head` is INTEGRATE.HKL or XDS_ASCII.HKL, or of their kind."""
    return head.startswith((b"!OUTPUT_FILE=INTEGRATE.HKL", b"!FORMAT=XDS_ASCII"))


def read_hkl(path: str) -> Reflections:
    header, rows = _read(path)
    places = _places(path, header, rows.shape[1])
    check_finite(path, rows[:, places])
    x, y, z = (rows[:, k] for k in places)
    first = last = np.floor(z).astype(np.int64)
    half = _half_width(header, x, y)
    if half is not None:
        first, last = (np.floor(z + sign * half).astype(np.int64) for sign in (-1, 1))
    scan = _numbers(header, "DATA_RANGE", 2)
    if scan is not None:
        # A reflection may begin before the first image that was integrated: nobody wants that part.
        first, last = (np.clip(a, int(scan[0]) - 1, int(scan[1]) - 1) for a in (first, last))
    return Reflections(
        x + ORIGIN,
        y + ORIGIN,
        first,
        last,
        np.full(len(x), _radius(header)),
        of_many_frames=half is not None,
        scan=None if scan is None else (int(scan[0]) - 1, int(scan[1]) - 1),
    )


def read_spots(rows: Array) -> Reflections:
    """`rows`: (n, 4 or more) numbers of SPOT.XDS: x, y, z, intensity."""
    frames = np.floor(rows[:, 2]).astype(np.int64)
    radius = np.full(len(rows), told_radius(0))
    return Reflections(rows[:, 0] + ORIGIN, rows[:, 1] + ORIGIN, frames, frames, radius, of_many_frames=False)


_ITEM = re.compile(r"([A-Z][A-Z0-9_.\-/']*)=\s*(.*?)(?=\s+[A-Z][A-Z0-9_.\-/']*=|$)")


def _read(path: str) -> tuple[dict[str, str], Array]:
    """The header's items, and the numbers (n, columns); what CORRECT rejected, with a negative sigma, is among them."""
    header: dict[str, str] = {}
    with open(path, encoding="latin-1") as file:
        for line in file:
            if not line.startswith("!") or line.startswith("!END_OF_HEADER"):
                break
            if m := re.match(r"!((?:[A-Z0-9]+,)+.*)", line.strip()):
                header["COLUMNS"] = header.get("COLUMNS", "") + m[1].replace(" ", "")
            header.update(_ITEM.findall(line[1:].strip()))
    try:
        with warnings.catch_warnings():
            # A file without a line is told of in our own words.
            warnings.simplefilter("ignore", UserWarning)
            rows = np.loadtxt(path, comments="!", ndmin=2, encoding="latin-1")
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: a file of XDS that can't be read: {reason}; make it again") from error
    if not rows.size:
        raise InputError(f"{path}: holds no reflections; give another file")
    return header, rows


def _places(path: str, header: Mapping[str, str], n_columns: int) -> tuple[int, int, int]:
    """The columns of x, y and z: of predictions in INTEGRATE.HKL, of what CORRECT took over from it in XDS_ASCII."""
    for names in (("XCAL", "YCAL", "ZCAL"), ("XD", "YD", "ZD")):
        listed = header.get("COLUMNS", "").split(",")
        found = [listed.index(n) if n in listed else int(header.get(f"ITEM_{n}", "0") or 0) - 1 for n in names]
        if all(0 <= k < n_columns for k in found):
            return found[0], found[1], found[2]
    raise InputError(f"{path}: has no positions of reflections (XCAL or XD); give INTEGRATE.HKL, or it unmerged")


def _numbers(header: Mapping[str, str], name: str, n: int) -> Array | None:
    try:
        values = np.array([float(word) for word in header[name].split()[:n]])
    except (KeyError, ValueError):
        return None
    return values if len(values) == n else None


def _number(header: Mapping[str, str], name: str) -> float | None:
    found = _numbers(header, name, 1)
    return None if found is None else float(found[0])


def _half_width(header: Mapping[str, str], x: Array, y: Array) -> Array | None:
    """Half of what each reflection takes of the rotation, in images; None where the header doesn't tell."""
    sigma, width = _number(header, "REFLECTING_RANGE_E.S.D."), _number(header, "OSCILLATION_RANGE")
    if not sigma or not width:
        return None
    half: Array = N_SIGMA * sigma / abs(width) / np.maximum(_zeta(header, x, y), LEAST_ZETA)
    return half


def _zeta(header: Mapping[str, str], x: Array, y: Array) -> Array:
    """How straight each reflection passes through the Ewald sphere, 0 to 1: the rotation axis' part along s1 x s0."""
    names = (
        "ROTATION_AXIS",
        "INCIDENT_BEAM_DIRECTION",
        "DIRECTION_OF_DETECTOR_X-AXIS",
        "DIRECTION_OF_DETECTOR_Y-AXIS",
    )
    vectors = [_numbers(header, name, 3) for name in names]
    scalars = [_number(header, name) for name in ("ORGX", "ORGY", "QX", "QY", "DETECTOR_DISTANCE")]
    if any(v is None or not v.any() for v in vectors) or any(s is None for s in scalars):
        return np.ones(len(x))
    axis, beam, fast, slow = (np.asarray(v) / np.linalg.norm(np.asarray(v)) for v in vectors)
    org_x, org_y, qx, qy, distance = (float(s or 0) for s in scalars)
    place = np.outer((x - org_x) * qx, fast) + np.outer((y - org_y) * qy, slow) + distance * np.cross(fast, slow)
    across = np.cross(place, beam)
    zeta: Array = np.abs(across @ axis) / np.maximum(np.linalg.norm(across, axis=1), 1e-9)
    return zeta


def _radius(header: Mapping[str, str]) -> float:
    """Three standard deviations of the beam's divergence, seen on the detector."""
    sigma, distance, qx = (_number(header, k) for k in ("BEAM_DIVERGENCE_E.S.D.", "DETECTOR_DISTANCE", "QX"))
    if not sigma or not distance or not qx:
        return told_radius(0)
    return told_radius(N_SIGMA * float(np.tan(np.radians(sigma))) * abs(distance) / qx)


def looks_like_spots(words: list[str], n_columns: int) -> bool:
    """Whether a file of numbers alone is SPOT.XDS, by the words of its first line: x y z intensity [h k l [n]]."""
    return n_columns in (7, 8) or (n_columns == 4 and re.fullmatch(r"\d+\.", words[3]) is not None)
