"""What rules and dealing need to know of a data set: read of its master, without a run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BnlError, InputError
from ..hdf5 import access
from ..hdf5.known import UNKNOWN
from ..hdf5.memory import Memory
from ..hdf5.names import PROCESS
from ..input import opening
from ..input.axes import RotationAxis, all_rotations
from ..input.discovery import STRICT, Leniency

ROTATION, GRID, STILL = SCANS = ("rotation", "grid", "still")


@dataclass(frozen=True)
class Facts:
    """A data set in a few numbers."""

    frames: int
    ny: int
    nx: int
    width: float
    """Oscillation width in degrees; 0 without rotation."""
    scan: str
    """"rotation"; "grid" (no rotation, several triggers or a moved axis); "still"."""
    bytes: int
    """Of all files of the set."""
    stamp: str
    """Sizes and times of its files: another stamp tells that the set has changed."""
    files: tuple[str, ...] = ()
    """The master and all data files, absolute."""


def read_facts(master: str, lenient: Leniency = STRICT, memory: Memory | None = None) -> Facts:
    """Read a set's facts; raises InputError where it is no set that can be reduced, `lenient` or not.

    `memory` remembers masters from set to set.
    """
    try:
        return _read(master, lenient, memory)
    except BnlError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{master}: can't be read as a data set: {reason}") from error


def _read(master: str, lenient: Leniency, memory: Memory | None) -> Facts:
    with opening.open_master(master) as h5:
        known = UNKNOWN if memory is None else memory.know(h5, large=False)
        if PROCESS in h5:
            raise InputError(f"{master}: was made by this program; archive the raw set instead")
        expected, ntrigger = opening.frames_told(h5, known)
        source = opening.open_source(master, h5, expected, lenient=lenient)
        width, scan = known.once(
            ("scan", source.n_frames, ntrigger), h5, lambda: _width_and_scan(h5, source.n_frames, ntrigger)
        )
    paths = tuple(dict.fromkeys([os.path.abspath(master), *(os.path.abspath(s.path) for s in source.segments)]))
    return Facts(
        source.n_frames,
        *source.shape,
        width,
        scan,
        sum(os.stat(path).st_size for path in paths),
        stamp_of(paths),
        paths,
    )


def _width_and_scan(h5: Any, n_frames: int, ntrigger: float | None) -> tuple[float, str]:
    axes = all_rotations(h5, n_frames)
    return _width(axes), _scan(h5, axes, ntrigger or 1)


def stamp_of(paths: Sequence[str]) -> str:
    """A digest of the sizes and times of files; OSError where one is gone."""
    told = [os.stat(path) for path in paths]
    text = ";".join(f"{t.st_size},{t.st_mtime_ns}" for t in told)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _width(axes: Sequence[RotationAxis]) -> float:
    moving = [axis for axis in axes if axis.moves]
    if not moving:
        return 0.0
    axis = moving[0]
    if axis.increment is not None:
        return abs(axis.increment)
    return float(abs(np.ptp(axis.start)) / max(1, len(axis.start) - 1))


def _scan(h5: Any, axes: Sequence[RotationAxis], ntrigger: float) -> str:
    if any(axis.moves for axis in axes):
        return ROTATION
    return GRID if ntrigger > 1 or _moves(h5) else STILL


def _moves(h5: Any) -> bool:
    """Whether a translation of the sample, as grid scans have one, takes more than one value."""
    for place in ("/entry/data", "/entry/sample/transformations", "/entry/sample"):
        group = access.get_group(h5, place)
        for name in group if group is not None else ():
            if name.lower().startswith(("sam", "stage", "x", "y")):
                dataset = access.get_dataset(group, name)
                if dataset is None or dataset.ndim != 1 or dataset.size < 2 or dataset.dtype.kind not in "fiu":
                    continue
                if np.ptp(dataset[()]) > 0:
                    return True
    return False
