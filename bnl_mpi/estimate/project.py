"""From a sample's chunks to the size of the whole set: images by what their frames' stored sizes tell, files by
writing real ones with next to nothing in them."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import BnlError
from ..job import Job, PreparedReduction
from ..output.blockfile import BlockWriter
from ..output.filters import Filter
from ..output.record import COUNTS, BlockRecord
from ..plan import Plan
from ..tasks.reduction import write_masters
from .measure import Measured

Floats = NDArray[np.float64]

# Student's t for 95 %, two-sided, by degrees of freedom from 1; then normal.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
NORMAL = 1.96
FEWEST_FOR_SLOPE = 4


@dataclass(frozen=True)
class Projection:
    """The whole set's size, with the limits of 95 % confidence that the sample's spread gives."""

    total: float
    """Bytes: data files, master and NeXus file."""
    low: float
    high: float
    ratio: float
    """2 bytes a raw pixel of each selected frame over `total`; greater is smaller."""
    ratio_low: float
    ratio_high: float


def project(prepared: PreparedReduction, groups: Sequence[Measured], stored: NDArray[np.int64]) -> Projection:
    """The size of a set, of a setting's measurements in each group, and `stored`, the input's bytes a frame."""
    plan = prepared.job.plan
    images, spread = images_total(plan, groups, stored)
    around = overhead(prepared, groups)
    raw = 2.0 * plan.n_frames * plan.shape_in[0] * plan.shape_in[1]
    total, low, high = images + around, max(images - spread, 1.0) + around, images + spread + around
    return Projection(total, low, high, raw / total, raw / high, raw / low)


def images_total(plan: Plan, groups: Sequence[Measured], stored: NDArray[np.int64]) -> tuple[float, float]:
    """Bytes of all images' chunks, and half the width of its 95 % interval.

    A group's bytes go along with its frames' stored bytes, which are known of all frames: so the mean is moved by
    the slope between the two (the regression estimator of survey sampling) where there are groups enough.
    """
    per_image = np.array([np.mean(g.sizes) for g in groups if g.sizes], float)
    inputs = np.array([np.mean([stored[f.start : f.stop].sum() for f in g.frames]) for g in groups if g.sizes], float)
    selected = stored[plan.first_frame : plan.first_frame + plan.n_frames]
    mean_input = float(selected.sum()) / plan.n_images
    mean, n = float(per_image.mean()), len(per_image)
    left, freedom = per_image - mean, n - 1
    apart = inputs - inputs.mean()
    # A spread of the inputs that is their codec's own noise tells nothing.
    if n >= FEWEST_FOR_SLOPE and float(np.ptp(inputs)) > 1e-3 * float(inputs.mean()):
        slope = float(apart @ per_image) / float(apart @ apart)
        if slope > 0:
            moved = mean + slope * (mean_input - float(inputs.mean()))
            mean, left, freedom = max(moved, 0.25 * mean), left - slope * apart, n - 2
    if freedom < 1:
        return mean * plan.n_images, 0.5 * mean * plan.n_images
    looked_at = min(1.0, sum(len(g.sizes) for g in groups) / plan.n_images)
    deviation = math.sqrt(float(left @ left) / freedom / n * (1 - looked_at))
    student = STUDENT[freedom - 1] if freedom <= len(STUDENT) else NORMAL
    return mean * plan.n_images, student * deviation * plan.n_images


def overhead(prepared: PreparedReduction, groups: Sequence[Measured]) -> float:
    """Bytes of all files beyond the images' chunks: blocks with their records, master and NeXus file."""
    job = prepared.job
    listed = [n for g in groups for n in g.invalid]
    invalid = round(sum(listed) / len(listed)) if listed else None
    with tempfile.TemporaryDirectory(prefix="bnl-mpi-") as folder:
        sizes = {block.n_images for block in job.plan.blocks()}
        around = {n: _empty_block(job, n, invalid, os.path.join(folder, f"{n}.h5")) for n in sizes}
        blocks = sum(around[block.n_images] for block in job.plan.blocks())
        return blocks + _masters(prepared, folder)


def _empty_block(job: Job, n_images: int, invalid: int | None, path: str) -> int:
    """Bytes of a block file of `n_images` images less its chunks."""
    record = BlockRecord(job.sha256, job.identity, 1)
    flagged = job.flagged()
    if invalid is not None:
        record.invalid = []
        if flagged is not None:
            from ..pixels.maps import mask_blank

            record.blank = mask_blank(flagged, job.plan.binning)
    final = Filter(job.options.compression, job.options.compression_level, kept=job.of_kept)
    writer = BlockWriter(path, n_images, job.plan.shape_out, job.plan.dtype_out, final, record, 0)
    pixel = np.zeros((1, 1), job.plan.dtype_out)
    for image in range(n_images):
        writer.add(b"0", pixel, job.plan.frames_of(image))
        if record.invalid is not None:
            record.invalid.append(np.arange(invalid or 0, dtype="<u4"))
    record.counts = dict.fromkeys(COUNTS, 0)
    writer.close()
    return os.path.getsize(path) - n_images


def _masters(prepared: PreparedReduction, folder: str) -> int:
    """Bytes of the master and of the NeXus file that the run would write."""
    options = replace(
        prepared.job.options, out_file=os.path.join(folder, "set"), out_master=os.path.join(folder, "set_master")
    )
    there = replace(prepared, job=replace(prepared.job, options=options))
    try:
        with ExitStack() as files:
            write_masters(there, files)
    except BnlError:
        return 0
    return sum(os.path.getsize(p) for p in (options.master_path, options.nxs_path) if os.path.exists(p))
