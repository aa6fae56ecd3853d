"""One block verified: its file's record and chunks, its images decoded, and held against the raw data once more."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..codecs import registry
from ..codecs.passed import Errors
from ..errors import InputError
from ..hdf5 import access, guard
from ..hdf5.names import IMAGES
from ..input import hdf5frames, identity
from ..output import contents
from ..output import record as records
from ..pixels import kernels
from ..plan import Block, Plan
from ..run.task import BlockReport, Overseer
from ..tasks.images import Sampled
from ..tasks.reduction import Pipeline
from ..tasks.report import ImageReport
from . import losses
from .files import Hashed, Hasher
from .findings import DIFFERS, MISSING, UNREADABLE, Finding
from .job import VerifyJob

MOST_FINDINGS = 20
"""Of one block: a file that is wholly other has as many as images."""

Array = np.ndarray[Any, Any]


@dataclass
class VerifyReport(BlockReport):
    """What rank 0 hears of a block."""

    chosen: bool = True
    """Whether the block is of the subset; else nothing was looked at."""
    findings: list[Finding] = field(default_factory=list)
    hashed: list[Hashed] = field(default_factory=list)
    """Of the block's own files, and of raw files that begin in it."""
    n_compared: int = 0
    """Images held against the raw data."""
    n_independent: int = 0
    """Of these, by the NumPy kernels and HDF5's own filters as well."""
    counts_before: int = 0
    """Sum over the valid pixels of images held against the raw data, before `--keep` and a lossy codec."""
    counts_stored: int = 0
    """Sum over the valid pixels of all images, as stored."""
    n_clipped: int = 0
    n_invalid: int = 0
    errors: list[Errors] = field(default_factory=list)
    """The codec's, image by image, where there is a codec."""
    errors_by_shell: list[Errors] = field(default_factory=list)
    """The same by resolution, of all the block's images; [] where nothing tells the geometry."""
    shell_limits: tuple[float, ...] = ()
    """Of these, as in `losses.Shells`."""
    bad_frames: list[int] = field(default_factory=list)
    """Raw frames, from 1, that couldn't be read, and count as invalid."""


class Verifier:
    """Verifies one block after another, on one rank."""

    def __init__(self, job: VerifyJob, rank: int) -> None:
        import hdf5plugin  # noqa: F401  (HDF5 learns its filters)

        self._job, self._rank, self._host = job, rank, os.uname().nodename
        self._hasher = Hasher()
        self._pipeline: losses.Remembering | None = None
        self._stores = job.options.stores_codestreams
        if job.against:
            options = job.options
            lists_invalid = job.keeping is not None and registry.storing(options.compression) is not None
            if not (self._stores or lists_invalid):
                # The lossless filter's coder needn't run: pixels are compared.
                options = replace(options, compression="none", compression_level=None, out_squash=None)
            self._again = replace(job, options=options)
            self._pipeline = losses.Remembering(self._again, rank)
        self._by_numpy: Pipeline | None = None
        measured = job.against and job.options.codec is not None
        self._shells = losses.read_shells(job.master, job.plan.shape_out) if measured else None

    def close(self) -> None:
        self._hasher.close()
        for pipeline in (self._pipeline, self._by_numpy):
            if pipeline is not None:
                pipeline.close()

    def make(self, block: Block, overseer: Overseer | None = None) -> VerifyReport:
        """Look at the block; what is wrong is a finding, and no error."""
        job, begin = self._job, time.perf_counter()
        overseer = overseer or Overseer()
        n_frames = len(job.plan.frames_of_block(block))
        report = VerifyReport(block.number, block.n_images, n_frames, rank=self._rank, host=self._host)
        report.chosen = job.is_chosen(block.number)
        if report.chosen:
            path = job.data_files[block.number - 1]
            if job.hashing:
                self._hasher.add(p for p in self._own_files(block) if os.path.exists(p))
            report.findings += self._file(path, block, report, overseer)
            if job.squash_files:
                report.findings += squash_findings(job, block.number)
            report.hashed = self._hashed(report)
        else:
            overseer.after_image(n_frames)
        del report.findings[MOST_FINDINGS:]
        report.seconds = time.perf_counter() - begin
        return report

    def _own_files(self, block: Block) -> list[str]:
        """The block's data and squash file, and raw files whose first frame of the plan it reads."""
        job = self._job
        own = [job.data_files[block.number - 1]]
        own += [job.squash_files[block.number - 1]] if job.squash_files else []
        frames = job.plan.frames_of_block(block)
        begin, seen = 0, set[str]()
        for segment in job.source.segments if job.against else ():
            here = max(begin, job.plan.first_frame)
            begin += segment.count
            if here < begin and segment.path not in seen:
                seen.add(segment.path)
                if here in frames:
                    own.append(segment.path)
        return own

    def _hashed(self, report: VerifyReport) -> list[Hashed]:
        try:
            return self._hasher.results()
        except OSError as error:
            report.findings.append(Finding(UNREADABLE, str(error.filename or ""), "file", "readable", str(error)))
            return []

    def _file(self, path: str, block: Block, report: VerifyReport, overseer: Overseer) -> Iterator[Finding]:
        if not os.path.exists(path):
            yield Finding(MISSING, path, f"block {block.number}", "a data file", "nothing")
            return
        sound = True
        for seen in contents.of_file(path, IMAGES, block.number, self._job.plan_sha256, is_squash=False):
            if not seen.ok:
                sound = sound and seen.check != "block-record"
                yield Finding(DIFFERS, path, seen.object, contents.CHECKS[seen.check], seen.found)
        if not sound:
            return
        report.files[path] = os.path.getsize(path)
        try:
            with guard.opened(path, self._job.plan.shape_in) as file:
                yield from self._images(path, file, block, report, overseer)
        except InputError as error:
            yield Finding(UNREADABLE, path, "images", "images that can be read", str(error))

    def _images(
        self, path: str, file: Any, block: Block, report: VerifyReport, overseer: Overseer
    ) -> Iterator[Finding]:
        """Each image: decoded against its checksum, and against what the raw data give."""
        job = self._job
        checksums, dataset = records.image_checksums(file), file[IMAGES]
        listed = records.read_invalid(file, self._job.plan.shape_out)
        stored = Stored(dataset, job.plan)
        for index in range(block.n_images):
            image, n_findings = block.first_image + index, 0
            try:
                pixels = stored.image(index, by_hdf5=index == 0 or job.paranoid)
            except (OSError, RuntimeError, ValueError) as error:
                yield Finding(UNREADABLE, path, f"image {image + 1}", "pixels", " ".join(str(error).split()))
                n_findings = 1
            else:
                crc = checksums[index]
                if crc is not None and kernels.crc32(pixels) != crc:
                    yield Finding(DIFFERS, path, f"image {image + 1}", "pixels of their checksum", "other pixels")
                invalid = listed.of(index) if listed else None
                counts = losses.counts(pixels, invalid)
                report.counts_stored += counts
            if self._pipeline is not None and not n_findings:
                try:
                    made = yield from self._against(path, dataset, pixels, image, block, report)
                    self._measure(pixels, invalid, counts, made, report)
                except InputError as error:
                    raw = job.options.infile
                    yield Finding(UNREADABLE, raw, f"image {image + 1}", "frames that can be read", str(error))
            overseer.after_image(len(job.plan.frames_of(image)))
        if self._pipeline is not None:
            yield from self._raw(file, block, report)

    def _raw(self, file: Any, block: Block, report: VerifyReport) -> Iterator[Finding]:
        """Whether the raw frames' stored bytes are those that the block was made of."""
        assert self._pipeline is not None
        kept, read = identity.read_block_input(file[records.GROUP]), self._pipeline.read_of(block)
        if kept is None:
            return
        report.bad_frames = list(kept.bad_frames)
        first = self._job.plan.frames_of_block(block).start + 1
        for index, (before, now) in enumerate(zip(kept.frames_crc32, read.frames_crc32, strict=False)):
            if before != now:
                wanted = "the stored bytes that the set was made of"
                path = self._raw_file(first + index - 1)
                yield Finding(DIFFERS, path, f"frame {first + index} of the raw data", wanted, "other bytes")
                return

    def _raw_file(self, frame: int) -> str:
        """The file of a raw frame, counted from 0."""
        for segment in self._job.source.segments:
            if frame < segment.count:
                return segment.path
            frame -= segment.count
        return self._job.options.infile

    def _against(
        self,
        path: str,
        dataset: Any,
        stored: Array,
        image: int,
        block: Block,
        report: VerifyReport,
    ) -> Generator[Finding, None, ImageReport]:
        """The raw frames reduced again; a sample by NumPy and HDF5's own filters too, which share no code."""
        assert self._pipeline is not None
        index = image - block.first_image
        made = self._pipeline.sample(image, restart=index == 0, copies=False)
        report.n_compared += 1
        report.n_clipped += made.report.n_clipped
        report.n_invalid += made.report.n_invalid
        yield from self._compare(path, dataset, stored, image, index, made)
        # A codec's state grows from image to image: the second way takes a block from its beginning.
        if index == 0 or self._job.paranoid:
            report.n_independent += 1
            again = self._independent(image, restart=index == 0)
            yield from self._compare(path, dataset, stored, image, index, again, how=" by the NumPy kernels")
        return made.report

    def _measure(
        self, stored: Array, invalid: Array | None, counts: int, made: ImageReport, report: VerifyReport
    ) -> None:
        """What the image has lost that the pipeline `made` last; `counts` are stored."""
        assert self._pipeline is not None
        before = self._pipeline.before
        if self._job.keeping is not None:
            report.counts_before += made.sum_before
        elif before is None:
            report.counts_before += counts
        else:
            report.counts_before += int(before.sum(where=losses.valid(stored, invalid), dtype=np.int64))
        if before is not None:
            whole, by_shell = losses.errors(before, stored, invalid, self._pipeline.kept, self._shells)
            report.errors.append(whole)
            report.errors_by_shell = losses.added(report.errors_by_shell, by_shell)
            report.shell_limits = self._shells.limits if self._shells else ()

    def _independent(self, image: int, *, restart: bool) -> Sampled:
        with kernels.by_numpy():
            if self._by_numpy is None:
                self._by_numpy = Pipeline(self._again, self._rank)
            return self._by_numpy.sample(image, restart=restart, copies=False)

    def _compare(
        self, path: str, dataset: Any, stored: Array, image: int, index: int, made: Sampled, how: str = ""
    ) -> Iterator[Finding]:
        if self._stores and dataset.id.read_direct_chunk((index, 0, 0))[1] == made.chunk:
            return
        differ = made.pixels != stored
        if stored.dtype.kind == "f":
            # NaN is the mark, and equals nothing.
            differ &= ~(np.isnan(made.pixels) & np.isnan(stored))
        if not differ.any():
            return
        n = int(np.count_nonzero(differ))
        worst = np.nanmax(np.abs(made.pixels[differ].astype(np.float64) - stored[differ].astype(np.float64)))
        wanted = f"what the raw frames give{how}"
        yield Finding(DIFFERS, path, f"image {image + 1}", wanted, f"{n} pixels differ, by up to {worst:g} counts")


class Stored:
    """The images of an open block file."""

    def __init__(self, dataset: Any, plan: Plan) -> None:
        access.enable_filters(dataset)
        self._dataset = dataset
        direct = dataset.chunks == (1, *plan.shape_out)
        self._how = hdf5frames.direct_filter(dataset, plan.dtype_out) if direct else None
        self._out = np.empty(plan.shape_out, plan.dtype_out)

    def image(self, index: int, *, by_hdf5: bool) -> Array:
        """(ny, nx): the image's pixels, which hold until the next call.

        By HDF5's filters, as readers have them, or, where these can, by the kernels, which are quicker.  Raises
        OSError, RuntimeError or ValueError where it can't be read.
        """
        if self._how is None or by_hdf5:
            return np.ascontiguousarray(self._dataset[index])
        mask, chunk = self._dataset.id.read_direct_chunk((index, 0, 0))
        if mask:
            return np.ascontiguousarray(self._dataset[index])
        hdf5frames.DECODERS[self._how](chunk, self._out)
        return self._out


def squash_findings(job: VerifyJob, number: int) -> Iterator[Finding]:
    """On a block's file of codestreams."""
    path = job.squash_files[number - 1]
    if not os.path.exists(path):
        yield Finding(MISSING, path, f"block {number}", "a squash file", "nothing")
        return
    for seen in contents.of_file(path, "", number, job.plan_sha256, is_squash=True):
        if not seen.ok:
            yield Finding(DIFFERS, path, seen.object, contents.CHECKS[seen.check], seen.found)
