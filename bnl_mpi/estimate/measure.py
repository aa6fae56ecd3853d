"""One group of frames, looked at raw and as every setting stores it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..input.frames import FrameReader
from ..job import Job
from ..plan import Plan
from ..spots import sizes as spot_sizes
from ..spots.losses import BackgroundSums, Pairs
from ..spots.shoebox import FOREGROUND_SIGMAS, Boxes, Layer, Sums, integrate
from ..spots.whole import grown, with_parts_joined
from ..tasks.reduction import Pipeline
from .rawframes import RawFrames
from .resolution import Geometry

Array = NDArray[Any]

MOST_PROFILES = 300
HALO = 2
"""Pixels around a strong one that aren't background either."""


@dataclass(frozen=True)
class Predicted:
    """Spots that somebody predicted: arrays of one length; see `shoebox.Boxes` for positions."""

    x: Array
    y: Array
    z: Array
    """Frames from 0, 0 the first frame's start."""
    half: Array
    """Frames that a spot lasts on either side of `z`."""


@dataclass(frozen=True)
class Trial:
    """A setting that is tried: its name, its job, and the job of the same sums and bins without a codec."""

    name: str
    job: Job
    exact: Job


@dataclass(frozen=True)
class Study:
    """What every rank needs; broadcast."""

    raw: Job
    """Of the frames as they are: -b 1 -s 1."""
    trials: tuple[Trial, ...]
    groups: tuple[range, ...]
    geometry: Geometry | None
    predicted: Predicted | None


@dataclass
class Measured:
    """What a setting makes of a group."""

    sizes: list[int] = field(default_factory=list)
    """Stored bytes of each image."""
    frames: list[range] = field(default_factory=list)
    invalid: list[int] = field(default_factory=list)
    """Invalid pixels that are listed beside each image; empty where images hold marks."""
    seconds: float = 0.0
    pairs: list[Pairs] = field(default_factory=list)
    background: BackgroundSums = field(default_factory=BackgroundSums)


@dataclass
class Group:
    """What a group tells."""

    number: int
    frames: range
    spots: int
    spacing: Array
    """(spots,) pixels to the nearest neighbour."""
    sigma: float | None
    profiles: Array
    """(k, frames) sums of found spots in each frame, and their variances."""
    variances: Array
    hot: Array
    """Flat indices of pixels that are always strong, which no mask flags."""
    measured: dict[str, Measured]


def boxes_of(raw: RawFrames, predicted: Predicted | None) -> Boxes:
    """What to integrate in a group: the spots predicted there, else those found."""
    sigma = raw.sigma or spot_sizes.USUAL_SIGMA
    radius = float(np.clip(FOREGROUND_SIGMAS * sigma - 0.5, 1.5, 8.0))
    if predicted is None:
        spots = raw.spots
        # Near the rotation axis spots last longer than others.
        length = np.maximum(spots.z - spots.box[:, 4], spots.box[:, 5] - spots.z) + 0.5
        z0, z1 = _lasting(spots.z, np.maximum(raw.half_duration, length), raw.frames)
        z0, z1 = grown(z0, z1, raw.strong_at(spots.x, spots.y), raw.frames)
        spots, z0, z1 = with_parts_joined(spots, z0, z1)
        return Boxes(spots.x, spots.y, z0, z1, radius)
    here = (predicted.z >= raw.frames.start) & (predicted.z < raw.frames.stop)
    x, y, z, half = (column[here] for column in (predicted.x, predicted.y, predicted.z, predicted.half))
    return Boxes(x, y, *_lasting(z, half, raw.frames), radius)


def _lasting(z: Array, half: Array, group: range) -> tuple[Array, Array]:
    """First frames and ends of spots at `z` that last `half` frames on either side, as far as the group goes."""
    z0 = np.clip(np.floor(z - half).astype(np.int64), group.start, group.stop - 1)
    return z0, np.clip(np.ceil(z + half).astype(np.int64), z0 + 1, group.stop)


@dataclass(frozen=True)
class Seen:
    """A group's raw frames, and its spots as these have them."""

    raw: RawFrames
    boxes: Boxes
    before: Sums
    profiles: Array
    """(k, frames) sums of the brightest found spots in each frame."""
    variances: Array


def look(study: Study, frames: range, flagged: Array | None) -> Seen:
    """Read a group's frames, find its spots, and integrate them, or the predicted ones."""
    reader = FrameReader(study.raw.source)
    try:
        raw = RawFrames(study.raw, frames, reader, flagged)
    finally:
        reader.close()
    layers = raw.layers()
    profiles, variances = _profiles(raw, layers)
    rocking = spot_sizes.rocking_width(profiles, variances)
    if rocking is not None:
        raw.half_duration = max(0.5, FOREGROUND_SIGMAS * rocking / spot_sizes.FWHM)
    boxes = boxes_of(raw, study.predicted)
    return Seen(raw, boxes, integrate(layers, 1, boxes), profiles, variances)


class Image(NamedTuple):
    """A reduced image, and what it would be without the codec."""

    frames: range
    pixels: Array
    exact: Array


def compare(study: Study, plan: Plan, seen: Seen, images: Iterable[Image]) -> tuple[Pairs, BackgroundSums]:
    """The group's spots before and after, and its background, on the images of `plan` that the group makes."""
    raw = seen.raw
    layers, background = [], BackgroundSums()
    bad = raw.bad_binned(plan.binning)
    for image in images:
        layers.append(Layer(image.frames, image.pixels, bad, raw.strong_binned(image.frames, plan.binning)))
        usable = (bad | raw.strong_binned(image.frames, plan.binning, HALO)) == 0
        background.add(image.exact, image.pixels, usable)
    held = range(layers[0].frames.start, layers[-1].frames.stop) if layers else range(0)
    boxes, before = _held(seen, held)
    after = integrate(layers, plan.binning, boxes, plan.scale)
    good = before.good & after.good
    place = place_of(study, boxes.x[good], boxes.y[good])
    return Pairs(before.counts[good], after.counts[good], before.sigma[good], place), background


def _held(seen: Seen, frames: range) -> tuple[Boxes, Sums]:
    """The group's spots as far as its images go, which needn't be whole ones: what these leave out is no loss."""
    boxes, group = seen.boxes, seen.raw.frames
    if frames.start <= group.start and frames.stop >= group.stop:
        return boxes, seen.before
    z0, z1 = np.maximum(boxes.z0, frames.start), np.minimum(boxes.z1, frames.stop)
    here = z1 > z0
    held = Boxes(boxes.x[here], boxes.y[here], z0[here], z1[here], boxes.radius)
    return held, integrate(seen.raw.layers(), 1, held)


class Measurer:
    """Measures groups; keeps the mask at hand."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._flagged = study.raw.flagged()

    def group(self, number: int) -> Group:
        """Group `number` of the study, counted from 0."""
        study = self._study
        seen = look(study, study.groups[number], self._flagged)
        raw, exact = seen.raw, _Exact()
        measured = {t.name: self._measure(t, seen, exact) for t in study.trials}
        return Group(
            number,
            raw.frames,
            len(raw.spots),
            spot_sizes.nearest(raw.spots),
            raw.sigma,
            seen.profiles,
            seen.variances,
            raw.hot,
            measured,
        )

    def _measure(self, trial: Trial, seen: Seen, exact: _Exact) -> Measured:
        result, pipeline = Measured(), Pipeline(trial.job, 0)
        try:
            pairs, result.background = compare(
                self._study, trial.job.plan, seen, self._images(trial, seen.raw.frames, pipeline, exact, result)
            )
        finally:
            pipeline.close()
            exact.close(trial)
        result.pairs.append(pairs)
        return result

    def _images(
        self, trial: Trial, group: range, pipeline: Pipeline, exact: _Exact, result: Measured
    ) -> Iterator[Image]:
        """Make the group's images, and note what they take."""
        plan = trial.job.plan
        images = images_within(plan.first_frame, plan.sum, plan.n_images, group)
        for image in images:
            made = pipeline.sample(image, restart=image == images[0])
            result.sizes.append(len(made.chunk))
            result.frames.append(plan.frames_of(image))
            result.seconds += made.report.seconds
            if made.invalid is not None:
                result.invalid.append(len(made.invalid))
            yield Image(plan.frames_of(image), made.pixels, exact.image(trial, image, made.pixels))


def place_of(study: Study, x: Array, y: Array) -> Array:
    """Resolution in Angstrom of points in pixels; without a geometry the distance from the middle, pixels."""
    if study.geometry is not None:
        return study.geometry.resolution(x, y)
    ny, nx = study.raw.plan.shape_in
    return np.asarray(np.hypot(x - nx / 2, y - ny / 2))


class _Exact:
    """The images of the settings without their codec, made once for all that sum and bin alike."""

    def __init__(self) -> None:
        self._images: dict[tuple[int, int, float, int], Array] = {}
        self._pipelines: dict[str, Pipeline] = {}

    def image(self, trial: Trial, image: int, made: Array) -> Array:
        """`made` are the trial's own pixels, exact ones where it has no codec."""
        plan = trial.job.plan
        key = (plan.binning, plan.sum, plan.scale, image)
        if key not in self._images:
            if trial.job.options.codec is None and trial.job.options.compression != "htj2k":
                self._images[key] = made
            else:
                if trial.name not in self._pipelines:
                    self._pipelines[trial.name] = Pipeline(trial.exact)
                self._images[key] = self._pipelines[trial.name].sample(image, restart=True).pixels
        return self._images[key]

    def close(self, trial: Trial) -> None:
        pipeline = self._pipelines.pop(trial.name, None)
        if pipeline is not None:
            pipeline.close()


def images_within(first: int, n_summed: int, n_images: int, frames: range) -> range:
    """The images, counted from 0, all of whose frames lie in `frames`, and a last one that the data cut short."""
    begin = -(-(frames.start - first) // n_summed)
    end = (frames.stop - first) // n_summed
    if frames.stop - first > (n_images - 1) * n_summed and (frames.stop - first) % n_summed:
        end = n_images
    return range(begin, min(max(end, begin + 1), n_images))


def _profiles(raw: RawFrames, layers: list[Layer]) -> tuple[Array, Array]:
    """(k, frames) sums of the brightest found spots in each frame, and Poisson's variances of these."""
    spots = raw.spots[np.argsort(-raw.spots.counts, kind="stable")[:MOST_PROFILES]]
    n, first, end = len(spots), raw.frames.start, raw.frames.stop
    # Those cut by the group's ends would look longer than they are.
    radius = float(np.clip(FOREGROUND_SIGMAS * (raw.sigma or spot_sizes.USUAL_SIGMA) - 0.5, 1.5, 8.0))
    sums = [
        integrate([layer], 1, Boxes(spots.x, spots.y, np.full(n, first), np.full(n, end), radius)) for layer in layers
    ]
    if not n or not sums:
        return np.empty((0, len(layers))), np.empty((0, len(layers)))
    good = np.all([one.good for one in sums], axis=0)
    return (
        np.stack([one.counts[good] for one in sums], axis=1),
        np.stack([one.sigma[good] ** 2 for one in sums], axis=1),
    )
