"""`--dry_run`: what would be done, and what it will take, by two images of the largest set of each kind."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Any

from ..errors import BnlError
from ..plan import counted
from .session import Plan
from .stages import Work, options_of
from .state import DONE, FAILED, SKIPPED
from .status import duration, size

SAMPLE = 2
"""Images: the first one pays for what is made ready once."""

MOST_KINDS = 20
"""Of rules and detectors: more would take minutes."""


@dataclass(frozen=True)
class Projected:
    """Of a set, on one process."""

    bytes_out: int
    """Of its images: structure and masters come on top."""
    seconds: float


def project(plan: Plan, to: str) -> dict[str, Projected]:
    """By stem, of what could be tried; sets of a kind have one rule and frames of a size."""
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for stem in _largest_first(plan):
        kinds.setdefault((plan.entries[stem].rule, plan.facts[stem].ny, plan.facts[stem].nx), []).append(stem)
    found: dict[str, Projected] = {}
    for stems in list(kinds.values())[:MOST_KINDS]:
        try:
            n_bytes, seconds = _a_frame(Work(plan.entries[stems[0]], to, verify=False))
        except (BnlError, OSError):
            # Its own run will tell why.
            continue
        for stem in stems:
            n = plan.facts[stem].frames
            found[stem] = Projected(round(n_bytes * n), seconds * n)
    return found


def _largest_first(plan: Plan) -> list[str]:
    return sorted(plan.to_do, key=lambda stem: (-plan.facts[stem].bytes, stem))


def _a_frame(work: Work) -> tuple[float, float]:
    """(bytes stored, seconds) a frame; errors of the set as a run would meet them."""
    import hdf5plugin  # noqa: F401  (HDF5 learns its filters)

    from ..tasks.reduction import REDUCTION

    job = REDUCTION.prepare(options_of(work)).job
    images = range(min(SAMPLE, job.plan.n_images))
    pipeline, n_bytes, seconds = REDUCTION.maker(job, 0), 0, 0.0
    try:
        for image in images:
            begin = time.perf_counter()
            n_bytes += len(pipeline.sample(image, restart=image == 0).chunk)
            seconds = time.perf_counter() - begin
    finally:
        pipeline.close()
    last = len(job.plan.frames_of(images[-1]))
    return n_bytes / sum(len(job.plan.frames_of(image)) for image in images), seconds / last


def table(plan: Plan, to: str) -> list[str]:
    """The largest set first, each with its projection; what is left out, and why; totals."""
    out, projected = [], project(plan, to)
    for stem in _largest_first(plan):
        entry, told = plan.entries[stem], plan.facts[stem]
        shape, made = f"{told.nx} x {told.ny}", projected.get(stem)
        again = " (again)" if entry.replaces else ""
        out.append(
            f"{told.bytes / 1e6:10.1f} MB -> {size(made.bytes_out) if made else '?':7s} {told.frames:6d} frames "
            f"{shape:>12s} {told.scan:8s} {told.width:g} deg  {stem}: {shlex.join(entry.words) or 'defaults'}{again}"
        )
    out += [f"skipped {path}: {reason}" for path, reason in plan.skipped.items()]
    for entry in plan.entries.values():
        if entry.stage in (SKIPPED, FAILED):
            out.append(f"{entry.stage} {entry.stem}: {entry.reason}")
    n_done = sum(entry.stage == DONE for entry in plan.entries.values())
    total = sum(plan.facts[stem].bytes for stem in plan.to_do)
    out.append(f"{counted(len(plan.to_do), 'data set')} to do, {size(total)} of raw files; {n_done} done already")
    if projected:
        n_bytes, seconds = (sum(getattr(one, name) for one in projected.values()) for name in ("bytes_out", "seconds"))
        out.append(f"about {size(n_bytes)} of images, and {duration(seconds)} on one process")
    return out
