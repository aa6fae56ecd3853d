"""From options to a job: everything that can be known and checked before the first byte is written."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import codecs
from ._version import __version__
from .errors import InputError, UsageError
from .hdf5 import guard
from .hdf5.known import UNKNOWN, Known
from .input import experiment as metadata
from .input import identity as identities
from .input import opening, reading, sanity
from .input.discovery import Leniency
from .input.experiment import Experiment
from .input.source import Source
from .options import Options
from .output import record
from .pixels import maps
from .plan import Plan, auto_block_size

if TYPE_CHECKING:
    import h5py

    from .hdf5.memory import Memory
    from .input.reflections.reading import ReflectionFile


@dataclass(frozen=True)
class Keeping:
    """The regions that `--keep` names, and where they come from."""

    files: tuple[ReflectionFile, ...]
    regions: bytes
    """Packed, of all images; see `input.reflections.regions`."""

    def items(self) -> dict[str, Any]:
        """What provenance and the job's identity tell, as JSON can hold it."""
        return {
            "files": [dataclasses.asdict(file) for file in self.files],
            "regions_sha256": hashlib.sha256(self.regions).hexdigest(),
        }


@dataclass(frozen=True)
class Job:
    """What every rank must know; broadcast, so small.  The mask travels as packed, deflated bits."""

    options: Options
    plan: Plan
    source: Source
    identity: str
    """JSON of what determines the output: options, version, plan, and what tells the input (`input.identity`)."""
    packed_mask: bytes | None
    keeping: Keeping | None = dataclasses.field(default=None, kw_only=True)
    """What `--keep` keeps; None without it."""
    takes_block_size: ClassVar[bool] = True
    """Whether the user may cut the work into other blocks, by `-d`."""

    @property
    def sha256(self) -> str:
        return record.sha256_of(self.identity)

    @property
    def of_kept(self) -> bool:
        """Whether the images are of `--keep`."""
        return self.keeping is not None

    def flagged(self) -> np.ndarray[Any, Any] | None:
        """(ny, nx) uint8: 1 where the input's pixel mask is not 0; None without a mask."""
        return None if self.packed_mask is None else maps.unpacked(self.packed_mask, self.plan.shape_in)


@dataclass(frozen=True)
class Prepared:
    """A job, and what rank 0 alone keeps beside it; each task has its own kind."""

    job: Job
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PreparedReduction(Prepared):
    """With what the masters are made of."""

    experiment: Experiment
    known: Known = UNKNOWN
    """What is known of the master's like, where that is remembered."""


def prepare(
    options: Options, *, trust_counts: bool = True, keeping: Keeping | None = None, memory: Memory | None = None
) -> PreparedReduction:
    """Read the master, make and check the plan, open nothing for writing; with `keeping` `--keep` reads no file.

    `memory` remembers masters from job to job.
    """
    with opening.open_master(options.infile) as h5, guard.understood(options.infile):
        read_at = reading.stamp(h5.filename) if os.path.isfile(h5.filename) else None
        known = UNKNOWN if memory is None else memory.know(h5)
        surveyed = known.survey(h5)
        expected, _ = opening.frames_told(h5, known)
        lenient = Leniency.asked(options)
        found = opening.open_source(
            options.infile, h5, expected, trust_counts=trust_counts, channel=options.channel, lenient=lenient
        )
        guard.check_sizes(surveyed, found.shape)
        found, surplus = _as_told(options, found, expected)
        experiment = _read_experiment(h5, found, known)
        source_items = identities.items(found, h5, experiment, known.sha256())
        coded = sanity.lossy_codestreams(h5)
    found = dataclasses.replace(found, stamp=read_at)
    warnings = [*found.warnings, *experiment.warnings, *coded]
    plan = make_plan(options, found, experiment, warnings)
    if expected is not None and (surplus or expected != found.n_frames):
        held = found.n_frames + surplus
        warnings.append(f"{options.infile} tells of {expected} frames, but its data files hold {held}")
    warnings += _check_zeroed(options, plan)
    codec = codecs.make(options)
    if codec is not None:
        codec.check(plan.shape_out, plan.limit)
    _check_sums(options, plan, experiment, warnings)
    warnings += _unfit_for_xds(options, experiment)
    keeping = keeping or _keeping(options, plan, warnings)
    if keeping is not None:
        source_items["kept"] = keeping.items()
    identity = record.identity(options.identity(), plan, source_items, __version__)
    job = Job(options, plan, found, identity, experiment.packed_mask, keeping=keeping)
    return PreparedReduction(job, tuple(warnings), experiment, known)


def _read_experiment(h5: h5py.File, found: Source, known: Known) -> Experiment:
    def read() -> Experiment:
        told = metadata.read_experiment(h5, found.n_frames, np.dtype(found.dtype), found.shape)
        for array in (told.mask, *(a for axis in told.axes for a in (axis.start, axis.end))):
            if array is not None:
                array.flags.writeable = False
        return told

    # Warnings name the file.
    return known.once(("experiment", found.n_frames, found.dtype, found.shape), h5, read, lambda e: not e.warnings)


def _unfit_for_xds(options: Options, experiment: Experiment) -> list[str]:
    warnings = []
    if experiment.mask is None:
        warnings.append(f"{options.infile}: no pixel_mask, so none is written; XDS can't read a set without one")
    if not os.path.basename(options.out_master or "").endswith("_master"):
        warnings.append(f"--out_master {options.out_master}: doesn't end in _master, so XDS won't find it")
    return warnings


def _as_told(options: Options, found: Source, expected: int | None) -> tuple[Source, int]:
    """The source without frames that the master doesn't tell of, and how many these are; InputError unless wanted."""
    if expected is None or found.n_frames <= expected or options.ignore_frame_numbers:
        return found, 0
    if options.last_image is None or options.last_image > expected:
        raise InputError(
            f"{options.infile}: tells of {expected} frames, but its data files hold {found.n_frames}; -N {expected} "
            "takes those that it tells of, --ignore_frame_numbers all"
        )
    return found.cut(expected), found.n_frames - expected


def _check_zeroed(options: Options, plan: Plan) -> list[str]:
    """Refuse patterns and frames that lie outside; returns what the user should know of the others."""
    ny, nx = plan.shape_out
    for pattern in options.zero:
        rows, columns = range(ny)[slice(*pattern.rows)], range(nx)[slice(*pattern.columns)]
        beyond = (pattern.rows[1] or 0) > ny or (pattern.columns[1] or 0) > nx
        if pattern.group is None and (beyond or not rows or not columns):
            raise UsageError(f"pattern '{pattern.text}' lies beyond the image of {nx} x {ny} pixels")
    for first, last in options.omit:
        if first > plan.n_frames_in:
            told = f"{first}" if first == last else f"{first}-{last}"
            raise UsageError(f"--omit {told} is outside the data, which has frames 1 to {plan.n_frames_in}")
    ny, nx = plan.shape_in
    return [
        *(["--scale 0 makes every count 0"] if options.scale == 0 else []),
        *(
            f"--keep_also {x0},{x1},{y0},{y1}: lies beyond a frame of {nx} x {ny} pixels, so it keeps nothing"
            for x0, x1, y0, y1 in options.keep_also
            if x0 >= nx or y0 >= ny
        ),
    ]


def _keeping(options: Options, plan: Plan, warnings: list[str]) -> Keeping | None:
    if not options.keep:
        return None
    # Imported late: most jobs keep nothing, and start sooner without.
    from .input.reflections import selection
    from .input.reflections.regions import NO_REGIONS

    paths = [path for path in options.keep if path != selection.AUTO]
    if len(paths) < len(options.keep):
        warnings.append(
            "--keep auto keeps strong spots alone: weak reflections are smoothed away with the noise; process the data "
            "first and give the reflections for more"
        )
    if not paths:
        return Keeping((), NO_REGIONS.packed())
    selected = selection.select(paths, options.keep_radius, options.keep_frames, plan)
    warnings += selected.warnings
    return Keeping(selected.files, selected.regions.packed())


def make_plan(options: Options, found: Source, experiment: Experiment, warnings: list[str]) -> Plan:
    """The plan for the selected frames; adds to `warnings` what the user should know."""
    n_frames = _selected(options, found, warnings)
    satval = experiment.satval
    plan = Plan(
        n_frames_in=found.n_frames,
        first_frame=options.first_image - 1,
        n_frames=n_frames,
        sum=options.sum,
        binning=options.bin,
        scale=options.scale,
        shape_in=found.shape,
        dtype_in=found.dtype,
        dtype_out=options.dtype,
        block_size=1,
        satval=satval,
        limit=output_limit(options, satval, warnings),
        saturation=options.saturation,
    )
    size = options.data_block_size
    if size == "auto":
        ny, nx = plan.shape_out
        size = auto_block_size(plan.n_images, ny * nx * np.dtype(plan.dtype_out).itemsize)
    plan = dataclasses.replace(plan, block_size=int(size))
    if min(found.shape) < plan.binning:
        raise UsageError(f"--bin {plan.binning} is larger than a frame of {found.shape[1]} x {found.shape[0]} pixels")
    if plan.n_blocks > 999999:
        raise UsageError(f"{plan.n_blocks} data files are more than six digits can number; raise -d")
    return plan


def _selected(options: Options, found: Source, warnings: list[str]) -> int:
    """How many frames are taken."""
    total = found.n_frames
    last = total if options.last_image is None else options.last_image
    if options.first_image > total or last > total:
        wrong = f"--first_image {options.first_image}" if options.first_image > total else f"--last_image {last}"
        raise InputError(f"{found.master}: {wrong} is outside the data, which has frames 1 to {total}")
    n_frames = last - options.first_image + 1
    partial = n_frames % options.sum
    if options.drop_partial and n_frames < options.sum:
        raise UsageError(f"--drop_partial: {n_frames} frames make no whole image of {options.sum}; lower -s")
    if partial and options.drop_partial:
        n_frames -= partial
        warnings.append(f"the last {partial} of the selected frames are left out (--drop_partial)")
    elif n_frames < options.sum:
        warnings.append(f"the only image is the sum of {n_frames} frames, not of {options.sum}: there are no more")
    elif partial:
        warnings.append(
            f"the last image is the sum of {partial} frames only, not of {options.sum}; --drop_partial leaves it out"
        )
    return n_frames


def output_limit(options: Options, satval: float, warnings: list[str]) -> float:
    """satval': the output's saturation value: scaled, transformed, and bounded by the output's type."""
    value: float = satval
    if options.saturation == "scaled":
        value = options.bin * options.bin * options.sum * satval
    # Only float input has a saturation value that is no integer.
    scaled = int(value * options.scale + 0.5) if value == int(value) else value * options.scale
    transformed = float(transform_counts(np.float64(scaled), options))
    if options.dtype.startswith("float"):
        greatest = float(np.finfo(options.dtype).max)
        if transformed > greatest:
            wider = "-f 4" if options.dtype == "float16" else "a smaller --scale"
            warnings.append(f"counts above {greatest:g} don't fit {options.dtype} and are clipped; {wider} keeps them")
            return greatest
        return transformed
    limit = (
        int(transformed + (0.5 if options.exponential else 0.0))
        if np.isfinite(transformed)
        else np.iinfo(np.uint32).max
    )
    # A type's top value is the mark; of signed types -1 is, so all their positive values count.
    greatest_stored = int(np.iinfo(options.dtype).max)
    top = greatest_stored - (1 if options.dtype.startswith("uint") else 0)
    if limit > top:
        if options.saturation == "clip":
            wider = "-u 4" if options.dtype == "uint16" else "a smaller --scale"
            warnings.append(
                f"the saturation value {limit} doesn't fit {options.dtype}: counts above {top} are clipped; "
                f"{wider} keeps them"
            )
        limit = top
    if options.saturation == "scaled":
        limit = min(limit, greatest_stored - 1)
    return limit


def transform_counts(values: Any, options: Options) -> Any:
    """Step 4's `-L` or `-X` in double precision: log_base(|v| + 1) or base**|v| - 1, with the sign of v."""
    if options.logarithm is not None:
        return np.sign(values) * np.log1p(np.abs(values)) / np.log(options.logarithm)
    if options.exponential is not None:
        with np.errstate(over="ignore"):
            return np.sign(values) * np.expm1(np.abs(values) * np.log(options.exponential))
    return values


def _check_sums(options: Options, plan: Plan, experiment: Experiment, warnings: list[str]) -> None:
    if plan.sum == 1:
        return
    breaks = metadata.sum_breaks(experiment, plan)
    if breaks and not options.allow_jumps:
        shown = "; ".join(str(b) for b in breaks[:3]) + ("; ..." if len(breaks) > 3 else "")
        raise InputError(
            f"{options.infile}: sums of {plan.sum} frames would cross {len(breaks)} break{'s' * (len(breaks) > 1)} "
            f"of the rotation, {shown}; choose -s, -1 and -N to fit, or add --allow_jumps"
        )
    if not experiment.is_rotation:
        warnings.append(f"-s {plan.sum} adds up frames of a data set without rotation (stills or a grid scan)")


def share_blocks(job: Job, share: int) -> list[int]:
    """Numbers of the blocks of share `share` of `-p`; none for share 0, which writes the masters."""
    return job.plan.owned(share, job.options.parallel or 1) if share else []


def segments_of(job: Job, numbers: Sequence[int]) -> list[int]:
    """The segments of the source that the blocks `numbers` read."""
    wanted: set[int] = set()
    for number in numbers:
        frames = job.plan.frames_of_block(job.plan.block(number))
        wanted.update(k for k, _ in job.source.spans(frames))
    return sorted(wanted)
