"""The study: from settings and a master to groups, jobs, measurements of all ranks, and the estimates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import job as jobs
from ..arguments import options_from
from ..errors import UsageError
from ..input.opening import open_master
from ..input.reflections.selection import read_fitting
from ..job import PreparedReduction
from ..options import XDS_COMPRESSIONS, Options
from ..plan import Plan
from ..run.world import World
from ..spots.losses import BackgroundSums, Losses, joined, judge
from ..spots.sizes import SpotSizes, rocking_width
from ..spots.whole import hot_note
from . import names, sampling
from .measure import Group, Measurer, Predicted, Study, Trial
from .names import Setting
from .project import Projection, project
from .resolution import read_geometry

ROTATION = "b2s1 b2s2 b2s2H16 b2s2J120 b2s2T6 b3s2 b3s2T6 b2s4 b3s4 b3s4T6 b4s4 b4s4T8"
"""What is tried by default, from some 20:1 to 500:1."""
STILLS = "b1s1 b1s1T20 b2s1 b2s1H16 b2s1J120 b2s1T6 b2s1T14 b3s1 b3s1T6 b4s1 b4s1T8"
"""Where nothing rotates frames aren't summed."""

Progress = Callable[[int, int, int], None]
"""Called with the groups done, of all, and the frames of one."""

RAW_WORDS = ["-b", "1", "-s", "1", "-c", "none", "--allow_jumps"]


@dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    infile: str
    settings: tuple[Setting, ...] = ()
    """Empty: a dozen that fit the data."""
    sample: int | None = None
    """Groups of frames; None: about 20 images."""
    keep: str | None = None
    channel: int | None = None
    predicted: Predicted | None = None
    spots: tuple[str, str] | None = None
    """In its place a file of reflections, and the option that names it."""


@dataclass(frozen=True)
class Estimate:
    """One setting's figures."""

    setting: Setting
    projection: Projection
    reads_xds: bool
    ms_per_frame: float
    """Milliseconds of one worker for a frame, on this machine."""
    losses: Losses
    files: int
    """Data files of the whole set."""
    front: bool = False
    """Whether no other is both smaller and adds less noise."""

    @property
    def name(self) -> str:
        return self.setting.name


@dataclass(frozen=True)
class Findings:
    """What a study found, smallest set last."""

    infile: str
    frames: int
    shape: tuple[int, int]
    rotation: bool
    groups: tuple[range, ...]
    estimates: tuple[Estimate, ...]
    sizes: SpotSizes
    spots: int
    bytes_in: int
    notes: tuple[str, ...]

    @property
    def sampled_frames(self) -> int:
        return sum(len(g) for g in self.groups)


@dataclass(frozen=True)
class _Ready:
    study: Study
    prepared: dict[str, PreparedReduction]
    settings: tuple[Setting, ...]
    stored: Any
    rotation: bool
    notes: tuple[str, ...]


def prepare(wish: Wish) -> _Ready:
    """Read the master, and make the job of every setting; a setting that can't be is an error, or left out where
    it came by default."""
    raw = jobs.prepare(_options(wish, RAW_WORDS), trust_counts=False)
    assert raw.experiment is not None
    plan = raw.job.plan
    predicted = wish.predicted if wish.spots is None else predicted_in(*wish.spots, plan)
    rotation = raw.experiment.is_rotation
    settings = wish.settings or names.parse_list(ROTATION if rotation else STILLS)
    if not wish.settings:
        settings = tuple(s for s in settings if s.sum <= plan.n_frames and s.bin <= min(plan.shape_in))
    prepared: dict[str, PreparedReduction] = {}
    notes = []
    for setting in settings:
        prepared[setting.name] = jobs.prepare(_options(wish, setting.words(wish.keep)), trust_counts=False)
    length = min(sampling.group_length([s.sum for s in settings], rotation=rotation), plan.n_frames)
    stored = sampling.stored_sizes(raw.job.source)
    sizes = None if rotation else sampling.group_sizes(stored, plan.first_frame, plan.n_frames, length)
    wanted = wish.sample or sampling.default_groups(length)
    groups = sampling.choose_groups(plan.first_frame, plan.n_frames, length, wanted, sizes)
    with open_master(raw.job.source.master) as h5:
        geometry, lacking = read_geometry(h5)
    if geometry is None:
        notes.append(f"{wish.infile} lacks {lacking}: losses are told by radius in pixels, not by resolution")
    trials = tuple(Trial(s.name, prepared[s.name].job, _exact(wish, s)) for s in settings)
    study = Study(raw.job, trials, tuple(groups), geometry, predicted)
    return _Ready(study, prepared, settings, stored, rotation, tuple(notes))


def _options(wish: Wish, words: Sequence[str]) -> Options:
    given = ["-i", wish.infile, *words]
    if wish.channel is not None:
        given += ["--channel", str(wish.channel)]
    return options_from(given)


def _exact(wish: Wish, setting: Setting) -> jobs.Job:
    bare = replace(setting, codec=None, level=None, keep=False, compression="none", compression_level=None)
    return jobs.prepare(_options(wish, bare.words()), trust_counts=False).job


def run(wish: Wish, ranks: World, progress: Progress | None = None) -> Findings | None:
    """Do the study on `ranks`; the findings on rank 0, None elsewhere.

    Group k is measured by worker 1 + k mod workers.  Raises on every rank what rank 0 met before the work.
    """
    ready, error = None, None
    if ranks.rank == 0:
        try:
            ready = prepare(wish)
        except Exception as met:
            error = met
    study = ranks.broadcast(error if error is not None else ready.study if ready else None)
    if isinstance(study, Exception):
        raise study
    groups = _measure_all(study, ranks, progress)
    return None if ready is None else _findings(wish, ready, groups)


def _measure_all(study: Study, ranks: World, progress: Progress | None) -> list[Group]:
    total = len(study.groups)
    if ranks.size == 1:
        measurer, done = Measurer(study), []
        for number in range(total):
            done.append(measurer.group(number))
            if progress:
                progress(number + 1, total, len(study.groups[0]))
        return done
    if ranks.rank:
        _measure_share(study, ranks)
        return []
    return _gather(ranks, total, progress)


def _measure_share(study: Study, ranks: World) -> None:
    try:
        measurer = Measurer(study)
        for number in range(ranks.worker - 1, len(study.groups), ranks.n_workers):
            ranks.send(measurer.group(number))
    except Exception as error:
        ranks.send(error)
    ranks.flush()


def _gather(ranks: World, total: int, progress: Progress | None) -> list[Group]:
    groups: dict[int, Group] = {}
    while len(groups) < total:
        thing = ranks.poll()
        if isinstance(thing, Exception):
            raise thing
        if isinstance(thing, Group):
            groups[thing.number] = thing
            if progress:
                progress(len(groups), total, len(thing.frames))
    return [groups[number] for number in range(total)]


def _findings(wish: Wish, ready: _Ready, groups: list[Group]) -> Findings:
    plan = ready.study.raw.plan
    estimates = [_estimate(ready, setting, groups) for setting in ready.settings]
    notes = list(ready.notes)
    spots = sum(g.spots for g in groups)
    if not spots:
        notes.append("no spots were found in the sample: settings are judged by the background alone")
    elif ready.study.predicted is None:
        notes.append(
            "only spots that were found are judged; weaker ones fare worse, at most by what the background's variance "
            "tells; --spots FILE judges predicted ones"
        )
    notes += hot_note(g.hot for g in groups)
    selected = ready.stored[plan.first_frame : plan.first_frame + plan.n_frames]
    return Findings(
        os.path.abspath(wish.infile),
        plan.n_frames,
        plan.shape_in,
        ready.rotation,
        ready.study.groups,
        tuple(_with_front(sorted(estimates, key=lambda e: -e.projection.total))),
        spot_sizes_of(groups, rotation=ready.rotation),
        spots,
        int(selected.sum()),
        tuple(notes),
    )


def _estimate(ready: _Ready, setting: Setting, groups: list[Group]) -> Estimate:
    prepared, name = ready.prepared[setting.name], setting.name
    measured = [g.measured[name] for g in groups]
    n_frames = sum(len(f) for m in measured for f in m.frames)
    background = BackgroundSums()
    for one in measured:
        background.merge(one.background)
    by = "d" if ready.study.geometry is not None else "radius"
    pairs = joined([p for m in measured for p in m.pairs])
    return Estimate(
        setting,
        project(prepared, measured, ready.stored),
        setting.compression in XDS_COMPRESSIONS,
        1000 * sum(m.seconds for m in measured) / max(1, n_frames),
        judge(pairs, background.result(), by, predicted=ready.study.predicted is not None),
        prepared.job.plan.n_blocks,
    )


def spot_sizes_of(groups: Sequence[Group], *, rotation: bool) -> SpotSizes:
    """Over all groups."""
    sigmas = [g.sigma for g in groups if g.sigma is not None]
    spacing = np.concatenate([np.empty(0), *(g.spacing for g in groups)])
    spacing = spacing[np.isfinite(spacing)]
    rocking = None
    if rotation:
        longest = max((g.profiles.shape[1] for g in groups), default=0)
        whole = [g for g in groups if g.profiles.shape[1] == longest]
        if whole:
            rocking = rocking_width(
                np.concatenate([g.profiles for g in whole]), np.concatenate([g.variances for g in whole])
            )
    return SpotSizes(
        float(np.median(sigmas)) if sigmas else None,
        float(np.percentile(spacing, 5)) if len(spacing) >= 20 else None,
        rocking,
    )


def harm(estimate: Estimate) -> float:
    """What settings are compared by beside their size: added noise in the outer shells, or without spots how far
    the background's variance is from Poisson's."""
    noise = estimate.losses.outer_noise
    if noise is None:
        noise = estimate.losses.weak.added_noise
    if noise is not None:
        return noise
    variance = estimate.losses.background.variance
    return 0.0 if variance is None else abs(1.0 - variance)


def _with_front(estimates: list[Estimate]) -> list[Estimate]:
    """Marks those that no other beats in size and harm."""
    marked = []
    for one in estimates:
        beaten = any(
            other.projection.total <= one.projection.total
            and harm(other) <= harm(one)
            and (other.projection.total < one.projection.total or harm(other) < harm(one))
            for other in estimates
        )
        marked.append(replace(one, front=not beaten))
    return marked


def wall_seconds(estimate: Estimate, frames: int, workers: int) -> float:
    """Of the whole run on so many workers, each with whole blocks."""
    blocks = max(1, estimate.files)
    return estimate.ms_per_frame / 1000 * frames / blocks * -(-blocks // min(max(1, workers), blocks))


def predicted_in(path: str, option: str, plan: Plan) -> Predicted:
    """The spots that the file of reflections tells of that an option names; InputError where it is of other frames."""
    _, found = read_fitting(path, plan, option)
    return Predicted(found.x, found.y, (found.first + found.last + 1) / 2, (found.last - found.first + 1) / 2)


def check_names(settings: Sequence[Setting], keep: str | None) -> None:
    """A keep row needs to know of what."""
    if any(s.keep for s in settings) and keep is None:
        raise UsageError("a setting with keep needs --keep FILE, the reflections to keep, or --keep auto")
