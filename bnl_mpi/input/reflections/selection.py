"""From `--keep`'s files to the regions of a plan's images, with what is wrong with them said before the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import InputError
from ...pixels.background import keep_discs
from ...plan import Plan
from .reading import ReflectionFile, read_reflections
from .regions import Regions, regions_of
from .value import Reflections, unite

Array = np.ndarray[Any, Any]

AUTO = "auto"
"""In place of a file: strong spots, found in each image."""

FEW = 0.01
"""Share of a file's reflections that may lie outside without another detector or scan being meant."""

BESIDE = 10.0
"""Pixels: predictions may lie so far beside the detector."""

MOST_KEPT = 0.5
"""Share of the pixels beyond which there is nothing to gain."""

SAMPLE = 5
"""Images that are looked at for that."""


@dataclass(frozen=True)
class Selected:
    files: tuple[ReflectionFile, ...]
    regions: Regions
    warnings: tuple[str, ...]


def select(paths: Sequence[str], radius: float | None, more_frames: int, plan: Plan) -> Selected:
    """Read all files, unite what they hold, and make it regions of the plan's images.

    `radius` in pixels of a frame, in place of the files' own; `more_frames` on both sides of each reflection.
    """
    files, parts, warnings = [], [], []
    for path in paths:
        file, found = read_fitting(path, plan)
        if not found.of_many_frames and not more_frames:
            warnings.append(
                f"--keep {path}: tells one frame of each reflection, so only that one is kept of it; --keep_frames N "
                "keeps N more on both sides"
            )
        files.append(file)
        parts.append(found)
    united = unite(parts)
    given = united.radius if radius is None else np.full(len(united), radius)
    united = replace(united, first=united.first - more_frames, last=united.last + more_frames, radius=given)
    regions = regions_of(united, plan)
    named = ", ".join(paths)
    if not len(regions):
        raise InputError(f"--keep {named}: no reflection is on frames {_frames(plan)}; give the file of this scan")
    _check_coverage(named, united, plan)
    _check_share(named, regions, plan)
    return Selected(tuple(files), regions, tuple(warnings))


def read_fitting(path: str, plan: Plan, option: str = "--keep") -> tuple[ReflectionFile, Reflections]:
    """The reflections of a file that `option` names; InputError where it is of another detector or scan."""
    file, found = read_reflections(path, option)
    _check_detector(f"{option} {path}", found, plan)
    _check_scan(f"{option} {path}", found, plan)
    return file, found


def _frames(plan: Plan) -> str:
    return f"{plan.first_frame + 1} to {plan.first_frame + plan.n_frames}"


def _check_detector(named: str, found: Reflections, plan: Plan) -> None:
    ny, nx = plan.shape_in
    outside = (found.x < -BESIDE) | (found.y < -BESIDE) | (found.x > nx + BESIDE) | (found.y > ny + BESIDE)
    if np.count_nonzero(outside) > FEW * len(found):
        k = int(np.argmax(outside))
        raise InputError(
            f"{named}: {np.count_nonzero(outside)} of {len(found)} reflections are outside a frame of {nx} x "
            f"{ny} pixels, as at {found.x[k]:.1f}, {found.y[k]:.1f}; give the file of this detector, unbinned"
        )


def _check_scan(named: str, found: Reflections, plan: Plan) -> None:
    n = plan.n_frames_in
    if found.scan is not None and found.scan[1] >= n:
        raise InputError(
            f"{named}: is of frames {found.scan[0] + 1} to {found.scan[1] + 1}, the input has {n}: a scan of "
            "another length; give the file of this one"
        )
    outside = (found.last < 0) | (found.first >= n)
    if np.count_nonzero(outside) > FEW * len(found):
        raise InputError(
            f"{named}: {np.count_nonzero(outside)} of {len(found)} reflections are outside frames 1 to {n}, up "
            f"to frame {int(found.last.max()) + 1}: a scan of another length; give the file of this one"
        )


def _check_coverage(named: str, united: Reflections, plan: Plan) -> None:
    """A file of a part of the scan would let the reflections of the rest be smoothed away."""
    begin, end = plan.first_frame, plan.first_frame + plan.n_frames - 1
    first, last = (
        int(np.quantile(united.first, FEW, method="lower")),
        int(np.quantile(united.last, 1 - FEW, method="higher")),
    )
    allowed = max(10, plan.n_frames // 10)
    if first - begin > allowed or end - last > allowed:
        raise InputError(
            f"--keep {named}: its reflections are on frames {max(first, 0) + 1} to {last + 1}, the selected ones are "
            f"{_frames(plan)}: a scan of another length; give the file of all frames, or choose frames with -1 and -N"
        )


def _check_share(named: str, regions: Regions, plan: Plan) -> None:
    state = np.zeros(plan.shape_out, np.uint8)
    images = np.unique(np.linspace(0, plan.n_images - 1, SAMPLE).astype(int))
    share = 0.0
    for image in images:
        state[:] = 0
        keep_discs(state, regions.on(int(image)))
        share += float(state.mean()) / len(images)
    if share > MOST_KEPT:
        raise InputError(
            f"--keep {named}: would keep {100 * share:.0f} % of all pixels, so that there is nothing to gain; lower "
            "--keep_radius or --keep_frames, or leave --keep out"
        )
