"""What is counted in a block's images, and what a user is told of a run that made a set of them."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..codecs.passed import Passed
from ..job import Job
from ..plan import counted_are
from ..run.report import by_rank, raw_bytes_per_frame
from ..run.task import BlockReport, Outcome
from . import for_xds

if TYPE_CHECKING:
    from .keeping import Kept


@dataclass
class ImageReport(BlockReport):
    """A block's report with what was counted in its images."""

    bytes_codestream: int = 0
    """0 where no codestream was made."""
    n_clipped: int = 0
    n_invalid: int = 0
    greatest_error: int = 0
    """Of the codec, in counts; 0 where it isn't measured."""
    squared_error: int = 0
    """Sum over the pixels of the images that were measured; under `--keep` over those that it kept."""
    n_measured: int = 0
    """Images of which the codec's errors were measured."""
    n_exact: int = 0
    """Images that the codec is known to have coded without loss."""
    missed_end: int = 0
    missed_jump: int = 0
    missed_trials: int = 0
    """Images that miss the codec's target by more than its tolerance, by the reason; see `contract.MISSES`."""
    bad_frames: list[int] = field(default_factory=list)
    """Frames, from 1, that couldn't be read and count as invalid."""
    inputs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Size and modification time (ns) by path of the files that were read."""
    n_kept: int = 0
    """Pixels that `--keep` kept."""
    n_kept_measured: int = 0
    """Of these, those of images of which the codec's errors were measured."""
    n_kept_beside: int = 0
    """Pixels that stood out, though no reflection is there: they are kept with their neighbours."""
    sum_before: int = 0
    sum_after: int = 0
    """Counts of all valid pixels, before and after the rest became its level."""
    greatest_background: int = 0
    squared_background: int = 0
    """As the codec's errors: those are of the kept pixels, these of the rest."""
    n_judged: int = 0
    """Images that `--guard` judged."""
    n_over: int = 0
    """Of these, those whose added noise was above it with the user's setting."""
    n_gentler: int = 0
    """Images that were coded with a gentler setting, or without loss, judged or not."""
    added_noise_1000: int = 0
    """The greatest added noise of a judged image as it is stored, in thousandths."""
    n_different: int = 0
    """Images that didn't decode to the pixels that the run which coded them got."""
    builds: str = ""
    """Which builds coded and decoded these."""

    @property
    def bytes_squash(self) -> int:
        """The squash file's size; 0 without one."""
        return sum(list(self.files.values())[1:])

    def add(self, passed: Passed) -> None:
        """Count what an image's codec did."""
        self.bytes_codestream += len(passed.codestream) if passed.codestream is not None else 0
        self.n_exact += passed.exact
        if passed.miss is not None:
            name = f"missed_{passed.miss}"
            setattr(self, name, getattr(self, name) + 1)
        if passed.errors is not None:
            self.n_measured += 1
            self.greatest_error = max(self.greatest_error, passed.errors.greatest)
            self.squared_error += passed.errors.squares
            self.n_kept_measured += passed.errors.n_pixels if passed.background is not None else 0
        if passed.background is not None:
            self.greatest_background = max(self.greatest_background, passed.background.greatest)
            self.squared_background += passed.background.squares

    def add_kept(self, kept: Kept) -> None:
        """Count what `--keep` did to an image."""
        self.n_kept += kept.n_kept
        self.n_kept_beside += len(kept.centres)
        self.sum_before += kept.sum_before
        self.sum_after += kept.sum_after


@dataclass
class SetSummary:
    """The figures of a finished run.  Rates and ratios are of raw pixels, decoded, in the stored type."""

    infile: str
    master: str
    nexus: str | None
    data_files: list[str]
    squash_files: list[str]
    frames: int
    images: int
    blocks: int
    kept_blocks: int
    """Of `blocks`, those that an interrupted run had made already."""
    workers: int
    idle_workers: int
    clipped_pixels: int
    invalid_pixels: int
    bytes_in: int
    """Of the selected frames, as stored in the input's files."""
    bytes_out: int
    """Of the new data files."""
    bytes_squash: int
    ratio_to_input: float
    ratio_to_raw16: float
    """Against 2 bytes a pixel of each selected frame."""
    raw_mb_per_s: float
    raw_mb_per_s_per_worker: float
    """While the workers worked."""
    mean_codestream: float | None
    """Bytes an image; None where no codestream was made."""
    codestream_ratio: float | None
    """2 bytes a pixel of the images over the codestreams' bytes."""
    greatest_error: int | None
    """Of any pixel, in counts, by the codec; None where it isn't measured."""
    rms_error: float | None
    """Over all pixels of the images that were measured, in counts, by the codec."""
    measured_images: int | None
    """How many these are: where codestreams are stored, a sample."""
    exact_images: int
    """Images that the codec is known to have coded without loss."""
    judged_images: int
    """By `--guard`."""
    images_over_guard: int
    gentler_images: int
    """Coded more gently than asked for."""
    added_noise: float | None
    """The greatest of a judged image, as it is stored; None without `--guard`."""
    missed_targets: dict[str, int]
    """Images that miss the codec's target by more than its tolerance, by the reason: end (the codec can come no
    nearer), jump (the size or error jumps over the target), trials (the search was given up)."""
    bad_frames: list[int]
    """Frames, from 1, that couldn't be read: their images are marked invalid."""
    seconds: float
    xds_template: str | None
    """None where XDS's usual plugin can't read the files."""
    xds_obstacles: list[str]
    """Why it can't, and what to do about it."""
    warnings: list[str]
    ranks: list[dict[str, Any]] = field(default_factory=list)
    """For each rank: blocks, images, and seconds in each stage, at work and idle."""
    kept: dict[str, Any] | None = None
    """What `--keep` did; None without it."""

    @property
    def exit_status(self) -> int:
        return 0

    def lines(self) -> list[str]:
        """The summary as text."""
        out = self._figures()
        first = self.data_files[0]
        last = f" .. {os.path.basename(self.data_files[-1])}" if len(self.data_files) > 1 else ""
        out += [f"master {self.master}"]
        if self.nexus:
            out += [f"NeXus  {self.nexus}"]
        out += [f"data   {first}{last}"]
        if self.squash_files:
            out += [f"squash {self.squash_files[0]}{' ..' if len(self.squash_files) > 1 else ''}"]
        return out + for_xds.lines(self.xds_template, self.xds_obstacles)

    def _figures(self) -> list[str]:
        mb = 1e6
        out = [
            f"{self.frames} frames -> {self.images} images in {self.blocks} data files"
            + (f" ({self.kept_blocks} there already)" if self.kept_blocks else "")
            + f", {self.seconds:.2f} s",
            f"pixels clipped {self.clipped_pixels}, invalid {self.invalid_pixels}",
            f"bytes in {self.bytes_in}, out {self.bytes_out}"
            + (f", codestreams kept {self.bytes_squash}" if self.bytes_squash else ""),
            f"ratio {self.ratio_to_input:.2f} to the input files, {self.ratio_to_raw16:.2f} to 2 bytes a raw pixel",
            f"raw data {self.raw_mb_per_s:.1f} MB/s over all, {self.raw_mb_per_s_per_worker:.1f} MB/s a worker "
            f"({self.workers} worker{'s' * (self.workers != 1)})",
        ]
        if self.mean_codestream is not None:
            out.append(
                f"mean codestream {self.mean_codestream / mb * 1000:.1f} kB an image, "
                f"{self.codestream_ratio:.1f}:1 to 2 bytes a pixel"
            )
        return out + self._of_codec()

    def _of_codec(self) -> list[str]:
        out = []
        if self.rms_error is not None:
            of = f", of {self.measured_images} images decoded" if self.measured_images != self.images else ""
            what = "" if self.kept is None else " of kept pixels"
            out.append(
                f"codec's greatest error{what} {self.greatest_error} counts, rms error {self.rms_error:.3f} counts{of}"
            )
        if self.added_noise is not None:
            out.append(
                f"guard: {_images(self.judged_images)} judged, {self.images_over_guard} above the bound, "
                f"{self.gentler_images} stored with a gentler setting; added noise at most {self.added_noise:.2f}"
            )
        if self.exact_images:
            out.append(f"{_images(self.exact_images)} coded without loss")
        if missed := sum(self.missed_targets.values()):
            out.append(f"{_images(missed)} off the codec's target")
        if self.kept is not None:
            from .keeping import kept_lines

            out += kept_lines(self.kept)
        return out

    def as_json(self) -> dict[str, Any]:
        # A share's blocks may be there before share 0 has written the master.
        return {**dataclasses.asdict(self), "master": self.master if os.path.exists(self.master) else None}


WHY_MISSED = {
    "end": "the codec can come no nearer",
    "jump": "the codestream's size, or the error, jumps over the target",
    "trials": "the search was given up",
}


def missed_targets(reports: Sequence[ImageReport]) -> dict[str, int]:
    """Number of images by why they miss their codec's target."""
    return {reason: sum(getattr(r, f"missed_{reason}") for r in reports) for reason in WHY_MISSED}


def bad_frames(reports: Sequence[ImageReport]) -> list[int]:
    """Frames, from 1, that couldn't be read, in order."""
    return sorted(frame for report in reports for frame in report.bad_frames)


def afterthoughts(reports: Sequence[ImageReport]) -> list[str]:
    """Warnings that only the finished blocks give rise to."""
    found = []
    if bad := bad_frames(reports):
        shown = ", ".join(map(str, bad[:20])) + (f" and {len(bad) - 20} more" if len(bad) > 20 else "")
        found.append(
            f"{counted_are(len(bad), 'frame')} invalid, and so are their images, for they couldn't be read: {shown}"
        )
    missed = missed_targets(reports)
    if n := sum(missed.values()):
        why = "; ".join(f"{_images(k)}: {WHY_MISSED[reason]}" for reason, k in missed.items() if k)
        found.append(f"{_images(n)} of {sum(r.n_images for r in reports)} not within tolerance of the target ({why})")
    if n := sum(r.n_different for r in reports):
        found.append(
            f"{_images(n)} decoded to other pixels than in the run that coded them: another build of the codec rounds "
            f"otherwise ({next(r.builds for r in reports if r.n_different)}); the checksums in the new data files are "
            "those of the new pixels"
        )
    return found


def _images(n: int) -> str:
    return f"{n} image{'s' * (n != 1)}"


def summarise(job: Job, outcome: Outcome, made: Sequence[ImageReport], kept: Sequence[ImageReport]) -> SetSummary:
    """Add up the blocks' reports; those `kept` from an interrupted run count, but not in the rates."""
    options, frames = job.options, sum(r.n_frames for r in [*made, *kept])
    numbers, obstacles = outcome.numbers, for_xds.obstacles(job)
    return SetSummary(
        infile=os.path.abspath(options.infile),
        master=os.path.abspath(options.master_path),
        nexus=os.path.abspath(options.nxs_path) if outcome.masters.nexus else None,
        data_files=[os.path.abspath(options.data_path(k)) for k in numbers],
        squash_files=[os.path.abspath(options.squash_path(k)) for k in numbers] if options.out_squash else [],
        frames=frames,
        images=sum(r.n_images for r in [*made, *kept]),
        blocks=len(numbers),
        kept_blocks=len(kept),
        workers=outcome.n_workers,
        idle_workers=max(0, outcome.n_workers - job.plan.n_blocks),
        **_rates(job, outcome, made),
        **_sizes(job, [*made, *kept]),
        bad_frames=bad_frames([*made, *kept]),
        seconds=outcome.seconds,
        xds_template=None if obstacles else for_xds.template(job),
        xds_obstacles=obstacles,
        warnings=list(outcome.warnings),
        ranks=by_rank(made, outcome.seconds),
        kept=_kept_figures(job, [*made, *kept]),
    )


def _kept_figures(job: Job, reports: Sequence[ImageReport]) -> dict[str, Any] | None:
    if job.keeping is None:
        return None
    from .keeping import kept_figures

    return kept_figures(job, reports)


def _rates(job: Job, outcome: Outcome, made: Sequence[ImageReport]) -> dict[str, Any]:
    raw = sum(r.n_frames for r in made) * raw_bytes_per_frame(job) / 1e6
    busy = sum(r.seconds for r in made)
    return {
        "raw_mb_per_s": raw / max(outcome.seconds, 1e-9),
        "raw_mb_per_s_per_worker": raw / max(busy, 1e-9),
    }


def _sizes(job: Job, reports: Sequence[ImageReport]) -> dict[str, Any]:
    plan = job.plan

    def total(name: str) -> int:
        return sum(getattr(r, name) for r in reports)

    n_images = total("n_images")
    n_pixels = plan.shape_out[0] * plan.shape_out[1]
    n_measured = total("n_measured")
    raw16 = total("n_frames") * plan.shape_in[0] * plan.shape_in[1] * 2
    bytes_in, bytes_out, streams = total("bytes_read"), total("bytes_written"), total("bytes_codestream")
    n_coded = n_measured * n_pixels if job.keeping is None else total("n_kept_measured")
    return {
        "clipped_pixels": total("n_clipped"),
        "invalid_pixels": total("n_invalid"),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "bytes_squash": total("bytes_squash"),
        "ratio_to_input": bytes_in / max(1, bytes_out),
        "ratio_to_raw16": raw16 / max(1, bytes_out),
        "mean_codestream": streams / n_images if streams else None,
        "codestream_ratio": 2 * n_images * n_pixels / streams if streams else None,
        "greatest_error": max(r.greatest_error for r in reports) if n_measured else None,
        "rms_error": math.sqrt(total("squared_error") / max(1, n_coded)) if n_measured else None,
        "measured_images": n_measured or None,
        "exact_images": total("n_exact"),
        "judged_images": total("n_judged"),
        "images_over_guard": total("n_over"),
        "gentler_images": total("n_gentler"),
        "added_noise": max(r.added_noise_1000 for r in reports) / 1000 if total("n_judged") else None,
        "missed_targets": missed_targets(reports),
    }
