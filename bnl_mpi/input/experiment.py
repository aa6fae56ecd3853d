"""What planning must know of an experiment: saturation, mask, triggers, rotation axes, and where sums break.

Source: section 2 of the NXmx definition for the axes; Dectris' FileWriter layout for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..hdf5 import access
from ..hdf5.names import DETECTOR, SPECIFIC
from ..pixels import maps
from ..pixels.kernels_numpy import top_value
from ..pixels.maps import bin_mask as bin_mask
from ..pixels.maps import bin_mean as bin_mean
from ..pixels.maps import mask_blank as mask_blank
from ..pixels.middle import median
from ..plan import Plan
from . import sanity
from .axes import RotationAxis, all_rotations

SATURATION_PATHS = (
    f"{DETECTOR}/saturation_value",
    f"{SPECIFIC}/countrate_correction_count_cutoff",
    f"{SPECIFIC}/saturation_value",
    f"{SPECIFIC}/detectorModule_000/countrate_correction_count_cutoff",
)
MASK_PATHS = (f"{SPECIFIC}/pixel_mask", f"{DETECTOR}/pixel_mask")

STEP_TOLERANCE = 0.5
"""A step that is off the usual one by more than this part of it is a jump.

Encoders jitter by a few per cent of a step; the least thing that is to be found, one frame missing or
taken twice, is a whole step.
"""


@dataclass(frozen=True)
class Experiment:
    """What the input's master tells of the experiment."""

    flavour: str
    """'nxmx' where /entry/definition says so, else 'filewriter'."""
    satval: float
    """An integer unless the frames are floats."""
    satval_from: str
    """The dataset's path, or 'default ...'."""
    mask: npt.NDArray[np.uint32] | None
    """(ny, nx)."""
    mask_path: str | None
    nimages: int | None
    ntrigger: int | None
    frames_per_trigger: int | None
    """Set where there are several triggers of several frames each."""
    axes: tuple[RotationAxis, ...]
    warnings: tuple[str, ...] = ()
    """What the master tells that nobody can use, a line each."""

    @cached_property
    def packed_mask(self) -> bytes | None:
        """Where the mask isn't 0, as deflated bits; None without a mask."""
        return None if self.mask is None else maps.packed(self.mask)

    @property
    def is_rotation(self) -> bool:
        """Whether some rotation axis really moves: False for stills and grid scans."""
        return any(axis.moves for axis in self.axes)


@dataclass(frozen=True)
class Break:
    """A place that no sum may cross: between frames `frame - 1` and `frame`, counted from 0."""

    frame: int
    reason: str

    def __str__(self) -> str:
        """Frames counted from 1, as a user sees them."""
        return f"between frames {self.frame} and {self.frame + 1}: {self.reason}"


def read_experiment(
    h5: h5py.File, n_frames: int, dtype: np.dtype[Any], shape: tuple[int, int] | None = None
) -> Experiment:
    """Read an open master.

    `dtype` is the type that the data files store; `shape` (ny, nx), where given, is checked against the
    mask's.  Raises InputError where an axis or the mask doesn't fit.
    """
    satval, satval_from, odd = _saturation(h5, np.dtype(dtype))
    mask, mask_path = _mask(h5, shape)
    nimages, ntrigger = (_count(h5, f"{SPECIFIC}/{name}") for name in ("nimages", "ntrigger"))
    return Experiment(
        flavour=flavour(h5),
        satval=satval,
        satval_from=satval_from,
        mask=mask,
        mask_path=mask_path,
        nimages=nimages,
        ntrigger=ntrigger,
        frames_per_trigger=_frames_per_trigger(nimages, ntrigger, n_frames),
        axes=tuple(all_rotations(h5, n_frames)),
        warnings=(*odd, *sanity.odd_items(h5)),
    )


def flavour(h5: h5py.File) -> str:
    """'nxmx' or 'filewriter' (the older kind, without a definition)."""
    definition = access.get_dataset(h5, "entry/definition")
    return "nxmx" if definition is not None and access.text(definition[()]) == "NXmx" else "filewriter"


def default_saturation(dtype: np.dtype[Any]) -> int:
    """32765 for 16-bit data, else the type's top value less 5 (of 32 bits, for floats)."""
    if dtype.itemsize == 2:
        return 32765
    top = np.iinfo(dtype).max if dtype.kind in "iu" else np.iinfo(np.uint32).max
    return int(top) - 5


def _saturation(h5: h5py.File, dtype: np.dtype[Any]) -> tuple[float, str, list[str]]:
    """The saturation value, where it was found, and a warning where what is told is no such value."""
    for path in SATURATION_PATHS:
        value = access.any_number(h5, path)
        if value is None or value <= 0:
            continue
        if _is_saturation(value, dtype):
            # Pixels of a logarithm, say, have a saturation value that is no integer.
            return value if dtype.kind == "f" else int(value), f"/{path}", []
        limit = type_limit(dtype)
        text = f"{h5.filename}: /{path} is {value:g}, no saturation value of {dtype.name} counts: {limit:g} is used"
        return limit, f"default for {dtype.name}", [text]
    return default_saturation(dtype), f"default for {dtype.name}", []


def _is_saturation(value: float, dtype: np.dtype[Any]) -> bool:
    """Whether that many counts can be a limit: no counter has more than 32 bits, and floats end somewhere."""
    if dtype.kind == "f":
        return value <= float(np.finfo(dtype).max)
    return 1 <= value <= np.iinfo(np.uint32).max


def type_limit(dtype: np.dtype[Any]) -> float:
    """The greatest count that the stored type holds."""
    return float(np.finfo(dtype).max) if dtype.kind == "f" else min(top_value(dtype), top_value(np.uint32))


def _mask(h5: h5py.File, shape: tuple[int, int] | None) -> tuple[npt.NDArray[np.uint32] | None, str | None]:
    for path in MASK_PATHS:
        found = access.get_dataset(h5, path)
        if found is None or found.dtype.kind not in "iub" or found.ndim < 2:
            continue
        values = access.read(found)
        while values.ndim > 2 and len(values) == 1:
            values = values[0]
        if values.ndim != 2 or (shape is not None and values.shape != tuple(shape)):
            raise InputError(
                f"{h5.filename}: /{path} has the shape {found.shape}, the frames have {shape}; "
                "put it right, or take it out of the master"
            )
        return values.astype(np.uint32, copy=False), f"/{path}"
    return None, None


def _count(h5: h5py.File, path: str) -> int | None:
    value = access.number(h5, path)
    return None if value is None or value < 1 else int(value)


def _frames_per_trigger(nimages: int | None, ntrigger: int | None, n_frames: int) -> int | None:
    if nimages is None or ntrigger is None or nimages < 2 or ntrigger < 2:
        return None
    return nimages if nimages < n_frames else None


def sum_breaks(experiment: Experiment, plan: Plan) -> list[Break]:
    """The breaks that lie inside of a sum of the plan, in the order of frames.

    A break is a trigger's end, or a jump of a rotation axis: a step between two frames' starts that differs
    from the axis' usual one (the median) by more than half of it, turns of 360 degrees apart.
    """
    if plan.sum < 2:
        return []
    breaks: dict[int, str] = {}
    if experiment.frames_per_trigger:
        for frame in range(experiment.frames_per_trigger, plan.n_frames_in, experiment.frames_per_trigger):
            breaks[frame] = f"trigger {frame // experiment.frames_per_trigger} ends"
    for axis in experiment.axes:
        for frame in jumps(axis):
            before, after = axis.start[frame - 1], axis.start[frame]
            breaks[frame] = f"{axis.path} goes from {before:g} to {after:g}"
    return [Break(frame, breaks[frame]) for frame in sorted(breaks) if _inside_a_sum(plan, frame)]


def jumps(axis: RotationAxis) -> list[int]:
    """Frames, counted from 0, that don't follow on the one before them."""
    if len(axis.start) < 3:
        return []
    steps = np.diff(axis.start)
    usual = median(steps)
    off = (steps - usual + 180.0) % 360.0 - 180.0
    # Two steps differ by four readings, each off by the jitter.
    tolerance = max(STEP_TOLERANCE * abs(usual), 4 * axis.resolution)
    return [int(i) + 1 for i in np.flatnonzero(np.abs(off) > tolerance)]


def _inside_a_sum(plan: Plan, frame: int) -> bool:
    offset = frame - plan.first_frame
    return 0 < offset < plan.n_frames and offset % plan.sum != 0
