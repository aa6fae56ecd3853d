"""What the reduction changes in a master, as a table: the first rule that applies to a dataset is taken.

A rule goes by the dataset's name and place and gives its new values; everything without one is copied as it
is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..hdf5 import access
from ..hdf5.treecopy import Decision, Drop, Item, Keep, LinkTo, Replace
from ..input.axes import ROTATION_NAMES, axis_base, is_axis
from ..pixels.maps import bin_mask, bin_mean
from ..pixels.middle import median
from .reduction import Reduction

Array = npt.NDArray[Any]

MASK_NAME = re.compile(r"pixel_mask(_\d+)?|mask")
MAP_NAMES = frozenset({"flatfield", "dark", "dark_current", "offset", "gain", "trimbit"})
EXPOSURE_NAMES = frozenset({"count_time", "frame_time", "frame_count_time", "frame_period"})
BEAM_NAMES = frozenset({"incident_wavelength", "incident_energy", "flux", "total_flux"})
PIXEL_COUNTS = re.compile(r"[xy]_pixels(_in_detector)?")


@dataclass(frozen=True)
class Rule:
    """`change` gives the new values of a dataset that `applies`."""

    applies: Callable[[Item, Reduction], bool]
    change: Callable[[Item, Reduction], Any]
    dtype: str | None = None


def _named(*names: str) -> Callable[[Item, Reduction], bool]:
    wanted = frozenset(names)
    return lambda item, run: item.name in wanted and item.dataset.dtype.kind in "iuf"


def _values(item: Item) -> Array:
    return np.asarray(access.read(item.dataset))


def _exact(item: Item) -> Array:
    """The values as float64, so that a stored single is scaled without rounding twice."""
    return _values(item).astype(np.float64)


# Pixels


def _in_module(item: Item) -> bool:
    return access.attribute_text(item.parent, "NX_class") == "NXdetector_module"


def _is_pixel_direction(item: Item, run: Reduction) -> bool:
    return item.name in ("fast_pixel_direction", "slow_pixel_direction") and item.dataset.dtype.kind in "iuf"


def _is_module_extent(item: Item, run: Reduction) -> bool:
    return item.name in ("data_size", "data_origin") and _in_module(item) and item.dataset.dtype.kind in "iuf"


def _module_extent(item: Item, run: Reduction) -> Array:
    """Size or origin of a module, element by element, and so in whichever order it is stored."""
    b = run.plan.binning
    size = access.get_dataset(item.parent, "data_size")
    origin = access.get_dataset(item.parent, "data_origin")
    low = np.asarray(origin[()], dtype=np.int64) if origin is not None else np.zeros(2, dtype=np.int64)
    if item.name == "data_origin":
        if np.any(low % b):
            run.warnings.append(f"{item.path}: {low.tolist()} is no multiple of {b}: it is rounded")
        return low // b
    high = low + np.asarray(size[()] if size is not None else 0, dtype=np.int64)
    return -(-high // b) - low // b


def _is_pixel_count(item: Item, run: Reduction) -> bool:
    return PIXEL_COUNTS.fullmatch(item.name) is not None and item.dataset.dtype.kind in "iuf"


def is_per_pixel(item: Item, run: Reduction) -> bool:
    """Whether the last two axes are the frames'."""
    return item.dataset.dtype.kind in "iufb" and tuple(item.dataset.shape[-2:]) == tuple(run.plan.shape_in)


def _is_mask(item: Item, run: Reduction) -> bool:
    integer = item.dataset.dtype.kind in "iub"
    return integer and MASK_NAME.fullmatch(item.name) is not None and is_per_pixel(item, run)


def is_images(item: Item, run: Reduction) -> bool:
    """Whether a dataset holds a stack of frames: three or more axes, and no mask or known map."""
    dataset = item.dataset
    if dataset.ndim < 3 or item.name in MAP_NAMES or MASK_NAME.fullmatch(item.name):
        return False
    return dataset.dtype.kind in "iuf" and is_per_pixel(item, run)


def _by_plane(values: Array, one: Callable[[Array], Array]) -> Array:
    if values.ndim == 2:
        return one(values)
    planes = [one(plane) for plane in values.reshape(-1, *values.shape[-2:])]
    return np.stack(planes).reshape(*values.shape[:-2], *planes[0].shape)


def _binned_mask(item: Item, run: Reduction) -> Array:
    known = run.experiment.mask if item.path == run.experiment.mask_path else None
    if known is not None and item.dataset.ndim == 2:
        return run.binned_mask(known)
    return _by_plane(_values(item), lambda plane: bin_mask(plane, run.plan.binning))


def _binned_map(item: Item, run: Reduction) -> Array:
    values, mask = _values(item), run.experiment.mask
    if run.plan.binning == 1:
        return values
    if mask is not None and mask.shape != values.shape[-2:]:
        mask = None
    mean = _by_plane(values, lambda plane: bin_mean(plane, mask, run.plan.binning))
    return np.rint(mean) if values.dtype.kind in "iub" else mean


def _is_excluded_count(item: Item, run: Reduction) -> bool:
    return item.name == "number_of_excluded_pixels" and run.experiment.mask is not None


def _excluded_count(item: Item, run: Reduction) -> int:
    assert run.experiment.mask is not None
    return int(np.count_nonzero(run.binned_mask(run.experiment.mask)))


# Counts and times


def _exposure(item: Item, run: Reduction) -> Array:
    """x s; a value for each frame is added up over the frames of each image."""
    values = _exact(item)
    if values.ndim == 1 and run.plan.n_frames_in > 1 and len(values) >= run.plan.n_frames_in:
        selected = values[run.plan.first_frame : run.end_frame]
        return np.asarray(np.add.reduceat(selected, np.arange(0, len(selected), run.plan.sum)))
    return np.asarray(values * run.plan.sum)


def _nimages(item: Item, run: Reduction) -> int:
    return 1 if _single_image_triggers(run) else run.plan.n_images


def _ntrigger(item: Item, run: Reduction) -> int:
    return run.plan.n_images if _single_image_triggers(run) else 1


def _single_image_triggers(run: Reduction) -> bool:
    """An input with one image a trigger keeps that form; all others become one trigger."""
    return run.experiment.nimages == 1 and (run.experiment.ntrigger or 1) > 1


def _saturation(item: Item, run: Reduction) -> float:
    return run.plan.limit


def _bit_depth(item: Item, run: Reduction) -> int:
    return run.data_dtype.itemsize * 8


# Axes


def tells_of_axis(item: Item, run: Reduction) -> bool:
    """An axis, one of its companions, or such a companion of a rotation in a plain group of settings."""
    if is_axis(item.dataset, item.path, item.parent):
        return True
    base, suffix = axis_base(item.name)
    if item.dataset.dtype.kind not in "iuf" or item.dataset.ndim > 1:
        return False
    if suffix and base in ROTATION_NAMES:
        return True
    in_data = access.attribute_text(item.parent, "NX_class") == "NXdata"
    return in_data and item.dataset.ndim == 1 and 1 < item.dataset.size == run.plan.n_frames_in


def _axis(item: Item, run: Reduction) -> Any:
    size, frames = item.dataset.size, run.plan.n_frames_in
    if size == 1:
        return _axis_scalar(item, run)
    if not size or size < frames:
        raise InputError(
            f"{item.dataset.file.filename}: {item.path} has {size or 0} values for {frames} frames; "
            "correct it, or take it out of the master"
        )
    if size > frames:
        run.warnings.append(f"{item.path} has {size} values for {frames} frames: the surplus is cut off")
    values = _exact(item)
    suffix = axis_base(item.name)[1]
    if suffix == "_end":
        return values[run.last_frames]
    sampled = values[run.first_frames]
    return sampled * run.plan.sum if suffix in ("_increment", "_increment_set", "_range_average") else sampled


def _axis_scalar(item: Item, run: Reduction) -> Any:
    value = _exact(item)
    base, suffix = axis_base(item.name)
    if suffix in ("_increment", "_increment_set", "_range_average"):
        return value * run.plan.sum
    if suffix == "_range_total":
        return _span(item, run, base, value)
    if suffix == "_end":
        return _end_of_range(item, run, base, value)
    return _start_of_range(item, run, base, suffix, value)


def _per_frame(item: Item, run: Reduction, name: str) -> Array | None:
    """A neighbour with a value for each frame."""
    found = access.get_dataset(item.parent, name)
    if found is None or found.ndim != 1 or found.size < run.plan.n_frames_in or found.dtype.kind not in "iuf":
        return None
    return np.asarray(access.read(found), dtype=np.float64)


def _increment_of(item: Item, run: Reduction, base: str) -> float | None:
    for suffix in ("_increment_set", "_increment", "_range_average"):
        found = access.get_dataset(item.parent, base + suffix)
        if found is not None and found.dtype.kind in "iuf" and found.size:
            return median(access.read(found))
    return None


def _start_of_range(item: Item, run: Reduction, base: str, suffix: str, value: Array) -> Any:
    """At the first selected frame, where a neighbour tells how the axis goes on; else unchanged."""
    if run.plan.n_frames_in == 1:
        return value
    if suffix == "_start" and (starts := _per_frame(item, run, base)) is not None:
        return starts[run.plan.first_frame]
    return value + run.plan.first_frame * (_increment_of(item, run, base) or 0.0)


def _end_of_range(item: Item, run: Reduction, base: str, value: Array) -> Any:
    """Where the last selected frame ends: counted back from the end of them all."""
    starts, increment = _per_frame(item, run, base), _increment_of(item, run, base)
    if starts is not None and increment is not None:
        return starts[run.end_frame - 1] + increment
    return value - (run.plan.n_frames_in - run.end_frame) * (increment or 0.0)


def _span(item: Item, run: Reduction, base: str, value: Array) -> Any:
    first, last = run.plan.first_frame, run.end_frame - 1
    starts, ends = _per_frame(item, run, base), _per_frame(item, run, f"{base}_end")
    increment = _increment_of(item, run, base)
    if starts is not None and ends is not None:
        return ends[last] - starts[first]
    if starts is not None and increment is not None:
        return starts[last] + increment - starts[first]
    if increment is not None:
        return increment * run.plan.n_frames
    return value * run.plan.n_frames / run.plan.n_frames_in


def _is_per_frame_beam(item: Item, run: Reduction) -> bool:
    dataset = item.dataset
    return item.name in BEAM_NAMES and dataset.ndim > 0 and 1 < run.plan.n_frames_in == dataset.shape[0]


RULES: tuple[Rule, ...] = (
    Rule(_named("beam_center_x", "beam_center_y"), lambda item, run: _exact(item) / run.plan.binning),
    Rule(_named("x_pixel_size", "y_pixel_size"), lambda item, run: _exact(item) * run.plan.binning),
    Rule(_is_pixel_direction, lambda item, run: _exact(item) * run.plan.binning),
    Rule(_is_pixel_count, lambda item, run: -(-_values(item).astype(np.int64) // run.plan.binning)),
    Rule(_is_module_extent, _module_extent),
    Rule(_is_mask, _binned_mask, "<u4"),
    Rule(is_per_pixel, _binned_map),
    Rule(_is_excluded_count, _excluded_count),
    Rule(_named(*EXPOSURE_NAMES), _exposure),
    Rule(_named("nframes_sum", "summation_nimages"), lambda item, run: _exact(item) * run.plan.sum),
    Rule(_named("nimages"), _nimages, "count"),
    Rule(_named("ntrigger"), _ntrigger, "count"),
    Rule(_named("saturation_value", "countrate_correction_count_cutoff"), _saturation),
    Rule(_named("bit_depth_image", "bit_depth_readout"), _bit_depth),
    Rule(tells_of_axis, _axis),
    Rule(_is_per_frame_beam, lambda item, run: _values(item)[run.first_frames]),
)


def decide(item: Item, run: Reduction) -> Decision:
    """What becomes of a dataset.  A stack of frames is never copied: a link to the new ones replaces it."""
    if item.dataset.shape is None:
        return Keep()
    if is_images(item, run):
        return _instead_of_images(item, run)
    key = (item.path, access.identity(item.dataset))
    known = run.shared.decisions
    if key not in known:
        begin = len(run.warnings)
        decision = _by_rules(item, run)
        known[key] = decision, run.warnings[begin:]
        return decision
    decision, warnings = known[key]
    run.warnings += warnings
    return decision


def _by_rules(item: Item, run: Reduction) -> Decision:
    for rule in RULES:
        if rule.applies(item, run):
            return _decision(item, rule.change(item, run), rule.dtype)
    return Keep()


def _decision(item: Item, values: Any, dtype: str | None) -> Decision:
    if dtype == "count":
        # XDS's reader takes these as little-endian integers only.
        whole = item.dataset.dtype.kind in "iu" and item.dataset.dtype.isnative
        return Replace(np.int64(values), None if whole else np.dtype("<u4"))
    if dtype is not None:
        return Replace(values, np.dtype(dtype))
    same = np.array_equal(np.asarray(values).reshape(-1), _values(item).reshape(-1))
    return Keep() if same else Replace(values)


def _instead_of_images(item: Item, run: Reduction) -> Decision:
    if run.signal is not None:
        return LinkTo(run.signal)
    run.warnings.append(f"{item.path} is left out: it holds frames, and the new ones are in /entry/data")
    return Drop()
