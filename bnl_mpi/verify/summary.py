"""What a user is told of a verification: one sign a file, the findings, and what it all comes to."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Interrupted
from . import losses
from .blocks import VerifyReport
from .findings import EQUAL, MEANING, Finding, Judged
from .job import VerifyJob
from .metadata import Tally


@dataclass
class VerifySummary:
    """The figures of a finished verification."""

    master: str
    against: str | None
    files: list[Judged]
    tally: Tally | None
    blocks: int
    """Of the set."""
    verified_blocks: int
    images: int
    compared_images: int
    independent_images: int
    frames: int
    counts_before: int
    """Before `--keep` and a lossy codec; 0 without raw data."""
    counts_stored: int
    clipped_pixels: int
    invalid_pixels: int
    greatest_error: int | None
    rms_error: float | None
    seconds: float
    raw_mb_per_s: float | None
    certificate: list[str] = field(default_factory=list)
    """Files of the certificate that was written."""
    kept: list[str] = field(default_factory=list)
    """Of a set made with `--keep`: what is known of the files of its reflections."""
    awaited: list[int] = field(default_factory=list)
    """Of share 0: blocks that no share has found sound yet."""

    @classmethod
    def of(
        cls,
        job: VerifyJob,
        reports: Sequence[VerifyReport],
        of_masters: Sequence[Finding] | None,
        tally: Tally,
        seconds: float,
    ) -> VerifySummary:
        """Put together what all ranks have found; `of_masters` is None where a share leaves these to share 0."""
        chosen = [report for report in reports if report.chosen]
        frames = sum(len(job.plan.frames_of_block(job.plan.block(r.number))) for r in chosen)
        raw_bytes = frames * math.prod(job.plan.shape_in) * _item_size(job)
        return cls(
            job.master,
            job.source.master if job.against else None,
            _judged(job, chosen, of_masters),
            None if of_masters is None or not job.against else tally,
            job.plan.n_blocks,
            len(chosen),
            sum(r.n_images for r in chosen),
            sum(r.n_compared for r in chosen),
            sum(r.n_independent for r in chosen),
            frames,
            sum(r.counts_before for r in chosen),
            sum(r.counts_stored for r in chosen),
            sum(r.n_clipped for r in chosen),
            sum(r.n_invalid for r in chosen),
            *codec_errors(chosen),
            seconds,
            raw_bytes / 1e6 / seconds if job.against and seconds else None,
        )

    @property
    def findings(self) -> list[Finding]:
        return [finding for one in self.files for finding in one.findings]

    @property
    def exit_status(self) -> int:
        """0 only if all holds; 75, as for the main job, where share 0 waits for others."""
        if self.findings:
            return 1
        return Interrupted.exit_status if self.awaited else 0

    def lines(self) -> list[str]:
        out = [f"{one.sign} {one.file}" for one in self.files]
        out += [finding.line() for finding in self.findings]
        if self.tally is not None:
            out.append(self.tally.line())
        part = "" if self.verified_blocks == self.blocks else f", {self.verified_blocks} of {self.blocks} blocks"
        what = f"{self.images} images of {self.frames} frames{part}"
        if self.against:
            what += f"; {self.compared_images} held against {self.against}, {self.independent_images} by two ways"
        out.append(what)
        out += self.kept
        if self.raw_mb_per_s:
            out.append(f"{self.seconds:.2f} s, raw data {self.raw_mb_per_s:.1f} MB/s")
        out += [f"certificate {path}" for path in self.certificate]
        return [*out, self.verdict()]

    def verdict(self) -> str:
        """In a line."""
        if self.findings:
            n = len(self.findings)
            return f"{n} finding{'s' * (n > 1)}: the set isn't what it should be"
        if self.awaited:
            shown = ", ".join(map(str, self.awaited[:10])) + (", ..." if len(self.awaited) > 10 else "")
            return f"not found sound yet: blocks {shown}; when all other shares have ended, share 0 tells again"
        what = "as it was written" if self.against is None else "what the raw data give"
        if self.verified_blocks < self.blocks and not self.certificate:
            return f"what was looked at is {what}"
        return f"the set is {what}" + (", all of it" if self.against else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "master": self.master,
            "against": self.against,
            "files": {one.file: one.sign for one in self.files},
            "signs": {sign: MEANING[sign] for sign in MEANING},
            "findings": [finding.as_json() for finding in self.findings],
            "equal": sum(one.sign == EQUAL for one in self.files),
            "blocks": self.blocks,
            "verified_blocks": self.verified_blocks,
            "images": self.images,
            "compared_images": self.compared_images,
            "independent_images": self.independent_images,
            "frames": self.frames,
            "counts_before": self.counts_before if self.against else None,
            "counts_stored": self.counts_stored,
            "clipped_pixels": self.clipped_pixels,
            "invalid_pixels": self.invalid_pixels,
            "greatest_error": self.greatest_error,
            "rms_error": self.rms_error,
            "seconds": self.seconds,
            "warnings": [],
            "raw_mb_per_s": self.raw_mb_per_s,
            "certificate": self.certificate,
            "kept": self.kept,
            "status": self.exit_status,
        }


def codec_errors(reports: Sequence[VerifyReport]) -> tuple[int | None, float | None]:
    """The codec's greatest and rms error in these blocks' images, in counts; None where none was measured."""
    found = losses.together([one for r in reports for one in r.errors])
    return (found.greatest, found.rms) if found.n_pixels else (None, None)


def _judged(job: VerifyJob, chosen: Sequence[VerifyReport], of_masters: Sequence[Finding] | None) -> list[Judged]:
    """Each file that was looked at, with what was found of it; and those that findings name besides."""
    names = [] if of_masters is None else [job.master]
    if names and os.path.exists(job.options.nxs_path):
        names.append(job.options.nxs_path)
    names += [job.data_files[r.number - 1] for r in chosen]
    names += [job.squash_files[r.number - 1] for r in chosen if job.squash_files]
    judged = {name: Judged(name) for name in names}
    for finding in [*(of_masters or ()), *(f for r in chosen for f in r.findings)]:
        judged.setdefault(finding.file, Judged(finding.file)).findings.append(finding)
    return list(judged.values())


def _item_size(job: VerifyJob) -> int:
    import numpy as np

    return np.dtype(job.plan.dtype_in).itemsize
