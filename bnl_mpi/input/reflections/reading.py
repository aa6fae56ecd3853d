"""A file of reflections, of whatever program: its format is told from its content."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from . import dials, xds
from .value import Array, Reflections, check_finite, told_radius

HEAD_BYTES = 4096

LARGEST_RADIUS = 10_000.0
"""Pixels: wider than any detector."""

MOST_FRAMES = 1e9

KNOWN = "a .refl of DIALS, INTEGRATE.HKL, XDS_ASCII.HKL or SPOT.XDS, or a table of x y frame [radius] [frames]"


@dataclass(frozen=True)
class ReflectionFile:
    """What a file was, for the record."""

    name: str
    sha256: str
    n_reflections: int


def read_reflections(path: str, option: str = "--keep") -> tuple[ReflectionFile, Reflections]:
    """The reflections of a file of one of the known formats; InputError in one line where that can't be.

    `option` is the one that names the file, which the line begins with.
    """
    try:
        head, sha256 = _head(path)
        found = _read(path, head)
        if not len(found):
            raise InputError(f"{path}: holds no reflections; give another file")
    except InputError as error:
        raise InputError(f"{option} {error}") from error
    return ReflectionFile(os.path.basename(path), sha256, len(found)), found


def _head(path: str) -> tuple[bytes, str]:
    """The first bytes, by which a format is told, and the SHA-256 of all."""
    if os.path.exists(path) and not os.path.isfile(path):
        # It is read twice, and a pipe that nobody writes to would be waited for.
        raise InputError(f"{path}: is no file; give {KNOWN}")
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            return head, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: can't be opened: {error.strerror}; give {KNOWN}") from error


def _read(path: str, head: bytes) -> Reflections:
    if dials.is_dials(head):
        return dials.read_dials(path)
    if xds.is_hkl(head):
        return xds.read_hkl(path)
    if b"\0" in head:
        raise InputError(f"{path}: is no file of reflections that is known; give {KNOWN}")
    rows = _rows(path)
    first = next((line for line in head.decode("latin-1").splitlines() if _is_data(line)), "")
    if xds.looks_like_spots(first.split(), rows.shape[1]):
        return xds.read_spots(rows)
    return _read_table(path, rows)


def _is_data(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _rows(path: str) -> Array:
    try:
        with warnings.catch_warnings():
            # An empty file is told of in our own words.
            warnings.simplefilter("ignore", UserWarning)
            rows: Array = np.loadtxt(path, comments="#", ndmin=2, encoding="latin-1")
    except ValueError as error:
        # Without NumPy's advice to who calls it.
        reason = " ".join(str(error).partition(";")[0].split())[:120]
        raise InputError(f"{path}: no file of reflections that is known ({reason}); give {KNOWN}") from error
    if not rows.size:
        raise InputError(f"{path}: holds no reflections; give another file")
    check_finite(path, rows[:, :3])
    return rows


def _whole(path: str, column: Array, words: str, least: float = -MOST_FRAMES) -> Array:
    """A column of frames as int64; InputError, of the first that can't be such a number and `words`."""
    if (wrong := ~((column == np.floor(column)) & (column >= least) & (column <= MOST_FRAMES))).any():
        raise InputError(f"{path}: {column[np.argmax(wrong)]:g} {words}")
    found: Array = column.astype(np.int64)
    return found


def _read_table(path: str, rows: Array) -> Reflections:
    """Rows of x, y in pixels (0 is the first pixel's outer corner), frame from 1, radius, frames on both sides."""
    n_columns = rows.shape[1]
    if not 3 <= n_columns <= 5:
        raise InputError(f"{path}: its lines have {n_columns} numbers, not x y frame [radius] [frames]")
    centre = _whole(path, rows[:, 2], "is no frame's number; give whole ones, counted from 1") - 1
    radius = rows[:, 3] if n_columns > 3 else np.full(len(rows), told_radius(0))
    if (wrong := ~((radius > 0) & (radius <= LARGEST_RADIUS))).any():
        told = f"a radius of {radius[np.argmax(wrong)]:g} pixels"
        raise InputError(f"{path}: {told}; give more than 0 and at most {LARGEST_RADIUS:g}")
    more = np.zeros(len(rows), np.int64)
    if n_columns > 4:
        more = _whole(path, rows[:, 4], "frames on both sides; give 0 or more, whole ones", least=0)
    return Reflections(rows[:, 0], rows[:, 1], centre - more, centre + more, radius, of_many_frames=n_columns > 4)
