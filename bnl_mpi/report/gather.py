"""What a report shows, gathered from the set and from the one that it was made from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import job as jobs
from ..arguments import options_from
from ..errors import InputError
from ..estimate import sampling
from ..estimate.measure import Image, Seen, Study, compare, images_within, look
from ..estimate.resolution import Geometry, read_geometry
from ..input.experiment import Experiment, jumps
from ..input.frames import FrameReader
from ..input.opening import open_master
from ..job import Job
from ..options import Options
from ..output.record import read_counts
from ..plan import Plan
from ..spots.losses import BackgroundSums, Losses, Pairs, joined, judge
from ..spots.whole import hot_note
from ..tasks.reduction import Pipeline

Array = NDArray[Any]

MOST_IMAGES = 60
"""Of the sweep that are decoded for its curves."""
ZOOM = 12
"""Raw pixels across a zoom, or the next multiple of the binning."""
RADII = 60
JUMP_SIGMAS, JUMP_SHARE = 6.0, 0.2
Progress = Callable[[str], None]


@dataclass(frozen=True)
class View:
    """One image before the codec and as stored: sums of the same frames in the same bins."""

    image: int
    """Counted from 0."""
    frames: range
    exact: Array
    stored: Array
    bad: Array
    """(oy, ox), not 0 where a pixel isn't wholly valid."""
    strong: Array


@dataclass(frozen=True)
class Zoom:
    """A spot's surroundings."""

    label: str
    strong: bool
    before: Array
    """Raw pixels, summed over the image's frames."""
    after: Array
    """The stored image's pixels."""


@dataclass(frozen=True)
class Sweep:
    """Along the set: each list has an entry for each image that was looked at, but `sizes` for all."""

    frames: Array
    """Number of each image's first frame, from 1."""
    before: Array
    """Mean counts of a valid raw pixel and frame."""
    after: Array
    rms: Array
    """Of stored less exact, counts of an image pixel."""
    jumps: tuple[int, ...]
    """Frames, from 1, where counts or a rotation axis jump."""
    first_frames: Array
    sizes: Array
    """Stored bytes of every image."""


@dataclass(frozen=True)
class Shown:
    """All of it."""

    master: str
    against: str
    plan: Plan
    options: Options
    losses: Losses
    pairs: Pairs
    view: View
    zooms: tuple[Zoom, ...]
    sweep: Sweep
    radial: tuple[Array, Array, Array]
    """Radius (raw pixels), and mean counts of a raw pixel and image before and after."""
    geometry: Geometry | None
    bytes_in: int
    bytes_out: int
    """Of the data files and the masters."""
    spots: int
    notes: tuple[str, ...]


def gather(master: str, against: str, words: Sequence[str], progress: Progress = lambda _: None) -> Shown:
    """Read both sets; `words` are the run's, as `replay` tells them, with `against` as the input."""
    options = options_from(list(words))
    transformed = options.logarithm is not None or options.exponential is not None
    if transformed or options.dtype.startswith("float") or not options.scale:
        raise InputError(f"{master}: holds no counts (-L, -X, -f or -S 0); report compares counts")
    # The plan is the same without what --keep kept, whose files may lie elsewhere by now.
    bare: dict[str, Any] = {field.name: field.default for field in fields(Options) if field.name.startswith("keep")}
    prepared = jobs.prepare(replace(options, **bare), trust_counts=False)
    plan, experiment = prepared.job.plan, prepared.experiment
    exact_words = ["-i", against, "-b", str(plan.binning), "-s", str(plan.sum), "-c", "none", "--allow_jumps"]
    exact_words += ["-1", str(plan.first_frame + 1), "-N", str(plan.first_frame + plan.n_frames)]
    exact_words += ["-S", f"{plan.scale:g}", "-u", str(options.uint or 2), "--saturation", plan.saturation]
    exact = jobs.prepare(options_from(exact_words)).job
    stored = jobs.prepare(options_from(["-i", master, "-c", "none", "--allow_jumps"]), trust_counts=False).job
    _check_same(master, against, plan, stored)
    with open_master(against) as h5:
        geometry, lacking = read_geometry(h5)
    notes = [] if geometry is not None else [f"{against} lacks {lacking}: shells are of the radius in pixels"]
    raw_words = ["-i", against, "-b", "1", "-s", "1", "-c", "none", "--allow_jumps"]
    study = Study(jobs.prepare(options_from(raw_words)).job, (), (), geometry, None)
    images = _Images(Pipeline(exact, 0), FrameReader(stored.source), plan)
    try:
        return _Gathering(study, plan, images, experiment, progress).shown(master, against, options, stored, notes)
    finally:
        images.close()


def _check_same(master: str, against: str, plan: Plan, stored: Job) -> None:
    have = (stored.plan.n_frames, *stored.plan.shape_in)
    want = (plan.n_images, *plan.shape_out)
    if have != want:
        raise InputError(
            f"{master}: has {have[0]} images of {have[2]} x {have[1]} pixels, but its options make {want[0]} of "
            f"{want[2]} x {want[1]} from {against}; give the set that it was made from"
        )


class _Images:
    """The set's images, and what they were before the codec."""

    def __init__(self, exact: Pipeline, reader: FrameReader, plan: Plan) -> None:
        self._exact, self._reader, self._plan = exact, reader, plan
        self._buffer = np.empty(plan.shape_out, reader.source.dtype)

    def get(self, image: int) -> Image:
        self._reader.decode(self._reader.fetch(image, self._buffer), image, self._buffer)
        exact = self._exact.sample(image, restart=True).pixels
        return Image(self._plan.frames_of(image), self._buffer.copy(), exact)

    def close(self) -> None:
        self._exact.close()
        self._reader.close()


class _Gathering:
    def __init__(self, study: Study, plan: Plan, images: _Images, experiment: Experiment, progress: Progress) -> None:
        self._study, self._plan, self._images, self._progress = study, plan, images, progress
        self._experiment = experiment
        self._flagged = study.raw.flagged()
        self._pairs: list[Pairs] = []
        self._background = BackgroundSums()
        self._zooms: list[tuple[float, Zoom]] = []
        self._hot: list[Array] = []
        self._spots = 0
        self._view: View | None = None

    def shown(self, master: str, against: str, options: Options, stored: Job, notes: list[str]) -> Shown:
        groups = self._groups()
        for k, group in enumerate(groups):
            self._progress(f"spots of group {k + 1} of {len(groups)}")
            self._look_at(group, middle=k == len(groups) // 2)
        assert self._view is not None
        sizes = sampling.stored_sizes(stored.source)
        pairs = joined(self._pairs)
        by = "d" if self._study.geometry is not None else "radius"
        losses = judge(pairs, self._background.result(), by)
        if not pairs.n:
            notes.append("no spots were found: the set is judged by its background alone")
        notes += hot_note(self._hot)
        notes += guarded({s.path for s in stored.source.segments}, options)
        files = {s.path for s in stored.source.segments} | {stored.source.master}
        nexus = stored.source.master.removesuffix(".h5").removesuffix("_master") + ".nxs"
        files |= {nexus} if os.path.exists(nexus) else set()
        return Shown(
            os.path.abspath(master),
            os.path.abspath(against),
            self._plan,
            options,
            losses,
            pairs,
            self._view,
            self._chosen_zooms(),
            self._sweep(sizes),
            radial(self._view, self._study.geometry, self._plan),
            self._study.geometry,
            sum(self._study.raw.source.file_sizes().values()),
            sum(os.path.getsize(path) for path in files),
            self._spots,
            tuple(notes),
        )

    def _groups(self) -> list[range]:
        plan, raw = self._plan, self._study.raw
        length = sampling.group_length([plan.sum], rotation=self._experiment.is_rotation)
        length = min(length, plan.n_frames)
        sizes = None
        if not self._experiment.is_rotation:
            stored = sampling.stored_sizes(raw.source)
            sizes = sampling.group_sizes(stored, plan.first_frame, plan.n_frames, length)
        wanted = sampling.default_groups(length)
        return sampling.choose_groups(plan.first_frame, plan.n_frames, length, wanted, sizes)

    def _look_at(self, group: range, *, middle: bool) -> None:
        plan, seen = self._plan, look(self._study, group, self._flagged)
        numbers = images_within(plan.first_frame, plan.sum, plan.n_images, group)
        made = {number: self._images.get(number) for number in numbers}
        pairs, background = compare(self._study, plan, seen, made.values())
        self._pairs.append(pairs)
        self._background.merge(background)
        self._spots += len(seen.raw.spots)
        self._hot.append(seen.raw.hot)
        self._zooms += zooms_of(seen, list(made.values()), plan.binning)
        strong = {n: int(seen.raw.strong_binned(i.frames, 1).sum()) for n, i in made.items()}
        if self._view is None or middle:
            best = max(strong, key=lambda n: strong[n])
            image, bad = made[best], seen.raw.bad_binned(plan.binning)
            self._view = View(
                best,
                image.frames,
                image.exact,
                image.pixels,
                bad,
                seen.raw.strong_binned(image.frames, plan.binning, 2),
            )

    def _chosen_zooms(self) -> tuple[Zoom, ...]:
        """Three strong and three weak ones, spread over what was found."""
        chosen: list[Zoom] = []
        for strong in (True, False):
            found = sorted((pair for pair in self._zooms if pair[1].strong == strong), key=lambda pair: -pair[0])
            places = {int(k) for k in np.linspace(0, len(found) - 1, 3)} if found else set()
            chosen += [found[k][1] for k in sorted(places)]
        return tuple(chosen)

    def _sweep(self, sizes: Array) -> Sweep:
        plan = self._plan
        numbers = np.unique(np.linspace(0, plan.n_images - 1, MOST_IMAGES).astype(int))
        rows = []
        assert self._view is not None
        good = self._view.bad == 0
        for k, number in enumerate(numbers):
            self._progress(f"image {k + 1} of {len(numbers)} of the sweep")
            image = self._images.get(int(number))
            # Of a wholly masked detector there is nothing to tell.
            exact, stored = (
                a.astype(np.float64)[good] if good.any() else np.zeros(1) for a in (image.exact, image.pixels)
            )
            unit = plan.binning**2 * len(image.frames) * plan.scale
            rows.append((exact.mean() / unit, stored.mean() / unit, np.sqrt(np.mean((stored - exact) ** 2))))
        table = np.array(rows)
        frames = np.array([plan.frames_of(int(n)).start + 1 for n in numbers])
        first = np.array([plan.frames_of(n).start + 1 for n in range(plan.n_images)])
        of_axes = {frame + 1 for axis in self._experiment.axes for frame in jumps(axis)}
        of_counts = {int(frames[k]) for k in steps(table[:, 0])}
        found = tuple(sorted(of_axes | of_counts))
        return Sweep(frames, table[:, 0], table[:, 1], table[:, 2], found, first, sizes)


def guarded(paths: set[str], options: Options) -> list[str]:
    """What the blocks tell of `--guard`."""
    if options.guard is None:
        return []
    counts = [read_counts(path) for path in paths]
    judged, over, gentler = (sum(c.get(name, 0) for c in counts) for name in ("n_judged", "n_over", "n_gentler"))
    return [
        f"--guard {options.guard:g}, --on_guard {options.on_guard}: {judged} images judged while they were made, "
        f"{over} above the bound, {gentler} images stored with a gentler setting"
    ]


def steps(values: Array) -> list[int]:
    """Where a curve jumps: by more than its usual steps, and by a fifth of its level."""
    differences = np.abs(np.diff(values))
    if len(differences) < 4:
        return []
    usual = 1.4826 * float(np.median(differences))
    bound = max(JUMP_SIGMAS * usual, JUMP_SHARE * float(np.median(np.abs(values))))
    return [int(k) + 1 for k in np.flatnonzero(differences > bound)]


def zooms_of(seen: Seen, images: list[Image], binning: int) -> list[tuple[float, Zoom]]:
    """Up to two strong and two weak spots of a group, by I/sigma, whole on an image."""
    size = binning * max(3, -(-ZOOM // binning))
    good = np.flatnonzero(seen.before.good)
    ratio = seen.before.counts / seen.before.sigma
    order = good[np.argsort(-ratio[good], kind="stable")]
    # From the middle of the weakest third on.
    weak = [k for k in order[5 * len(order) // 6 :] if ratio[k] > 1]
    found: list[tuple[float, Zoom]] = []
    for strong, chosen in ((True, order[: max(2, len(order) // 20)]), (False, weak)):
        mine: list[tuple[float, Zoom]] = []
        for k in chosen:
            cut = _cut(seen, images, binning, size, int(k))
            if cut is not None:
                label = f"I/sigma {ratio[k]:.1f}"
                mine.append((float(ratio[k]), Zoom(label, strong, *cut)))
            if len(mine) == 2:
                break
        found += mine
    return found


def _cut(seen: Seen, images: list[Image], binning: int, size: int, k: int) -> tuple[Array, Array] | None:
    boxes, raw = seen.boxes, seen.raw
    middle = int(boxes.z0[k] + boxes.z1[k]) // 2
    image = next((one for one in images if middle in one.frames), None)
    y, x = ((int(c) // binning) * binning - size // 2 // binning * binning for c in (boxes.y[k], boxes.x[k]))
    if image is None or min(x, y) < 0 or y + size > raw.shape[0] or x + size > raw.shape[1]:
        return None
    if raw.bad[y : y + size, x : x + size].any():
        return None
    frames = [raw.images[f][y : y + size, x : x + size].astype(np.int64) for f in image.frames if f in raw.images]
    n = size // binning
    return np.sum(frames, axis=0), image.pixels[y // binning :, x // binning :][:n, :n].astype(np.int64)


def radial(view: View, geometry: Geometry | None, plan: Plan) -> tuple[Array, Array, Array]:
    """Mean background by the distance from the beam: radii in raw pixels, counts of a raw pixel before and after."""
    oy, ox = view.exact.shape
    centre = geometry.beam_centre if geometry is not None else (plan.shape_in[1] / 2, plan.shape_in[0] / 2)
    y, x = (np.arange(n) * plan.binning + plan.binning / 2 for n in (oy, ox))
    radius = np.hypot(x[None, :] - centre[0], y[:, None] - centre[1])
    usable = (view.bad == 0) & (view.strong == 0)
    step = max(float(radius[usable].max()) / RADII, 1.0) if usable.any() else 1.0
    ring = (radius[usable] / step).astype(np.int64)
    number = np.bincount(ring, minlength=1)
    enough = number > 20
    unit = plan.binning**2 * plan.scale * np.maximum(number, 1)
    sums = [np.bincount(ring, image[usable], minlength=len(number)) for image in (view.exact, view.stored)]
    means = [one / unit for one in sums]
    at = (np.arange(len(number)) + 0.5) * step
    return at[enough], means[0][enough], means[1][enough]
