"""The command `bnl-mpi export MASTER --cbf name_#####.cbf`: a data set as a series of CBF images.

A block is a handful of images, each a file of its own.  The geometry is that of the set's NXmx file, which is made
anew for it, so that readers see one experiment in both.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import job as jobs
from ..errors import UsageError
from ..input import checks
from ..input.frames import FrameReader
from ..job import Prepared
from ..options import Options
from ..output import cbffile
from ..output.cbffile import Template
from ..output.cbfheader import header
from ..output.whole import NewFiles
from ..plan import Block
from ..run.report import by_rank
from ..run.task import BlockReport, Made, Masters, Outcome, Overseer
from .exportfiles import CbfFiles
from .exportjob import BAD, IMAGES_A_BLOCK, Export, prepare

MOST = np.iinfo(np.int32).max + BAD
"""Of counts: so the difference of two pixels fits 32 bits, beyond which not every reader of CBF goes."""


def options_for(master: str, cbf: str, given: Mapping[str, Any]) -> Options:
    """`out_file` is what the files' names begin with: by this the run is locked."""
    if given.get("thread") is not None:
        raise UsageError("export has no shares: give -p N without -t, or start it under mpiexec")
    return Options(infile=master, out_file=Template.parse(cbf).prefix, data_block_size=IMAGES_A_BLOCK, **given)


def counts(frame: np.ndarray[Any, Any], marks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(ny, nx) int32: a frame's counts, and marks for pixels that are none.

    The type's top value, or a negative one, is no count; what is above MOST is cut, far above any cutoff.
    """
    top = np.iinfo(frame.dtype).max
    bad = frame == top if frame.dtype.kind == "u" else frame < 0
    pixels = np.minimum(frame, min(int(top), MOST)).astype(np.int32)
    pixels[bad] = BAD
    return np.where(marks < 0, marks, pixels).astype(np.int32)


class ExportMaker:
    """Writes the images of one block after another."""

    def __init__(self, job: Export, rank: int) -> None:
        self._job, self._rank = job, rank
        self._reader = FrameReader(job.source)
        self._marks = job.marks()
        self._frame = np.empty(job.plan.shape_in, job.plan.dtype_in)

    def make(self, block: Block, overseer: Overseer | None = None) -> Made:
        """Write the block's files; they appear whole or not at all, and the disk is waited for in the background."""
        overseer = overseer or Overseer()
        begin, read = time.perf_counter(), self._reader.bytes_read
        report = BlockReport(block.number, block.n_images, block.n_images, rank=self._rank, host=os.uname().nodename)
        images = self._job.images_of(block.number)
        paths = [self._job.template.path(image) for image in images]
        new = NewFiles(*paths)
        with new.gone_on_error():
            for image, path, partial in zip(images, paths, new.partial, strict=True):
                data = self._image(image, path)
                cbffile.write_image(partial, data)
                report.files[path] = len(data)
                overseer.after_image(1)
        report.bytes_read = self._reader.bytes_read - read
        report.seconds = time.perf_counter() - begin
        return Made(report, lambda: new.name(overseer.before_naming))

    def _image(self, image: int, path: str) -> bytes:
        fetched = self._reader.fetch(image, self._frame)
        self._reader.decode(fetched, image, self._frame)
        name = os.path.basename(path).removesuffix(".cbf")
        return cbffile.image_bytes(header(self._job.told, image, name), counts(self._frame, self._marks))

    def close(self) -> None:
        self._reader.close()


@dataclass
class ExportSummary:
    """The figures of a finished export."""

    infile: str
    template: str
    images: int
    kept_images: int
    """Of `images`, those that an interrupted export had written already."""
    bytes_in: int
    bytes_out: int
    seconds: float
    workers: int
    warnings: list[str]
    ranks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        return 0

    def lines(self) -> list[str]:
        there = f" ({self.kept_images} there already)" if self.kept_images else ""
        return [
            f"{self.images} images in as many CBF files{there}, {self.seconds:.2f} s",
            f"bytes in {self.bytes_in}, out {self.bytes_out}",
            f"NAME_TEMPLATE_OF_DATA_FRAMES= {self.template.replace('#', '?')}",
        ]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class ExportTask:
    """A set to CBF images."""

    files = CbfFiles()

    def __init__(self, cbf: str) -> None:
        self._template = Template.parse(cbf)

    def prepare(self, options: Options, *, trust_counts: bool = True) -> Prepared:
        return prepare(options, self._template, trust_counts=trust_counts)

    def get_ready(self, options: Options) -> None:
        import hdf5plugin  # noqa: F401  (HDF5 learns its filters)

    def check_inputs(self, job: Export, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        return checks.check_segments(job.source, jobs.segments_of(job, numbers))

    def maker(self, job: Export, rank: int) -> ExportMaker:
        return ExportMaker(job, rank)

    def write_masters(self, prepared: Prepared, files: ExitStack) -> Masters:
        return Masters()

    def start_line(self, job: Export) -> str:
        ny, nx = job.plan.shape_in
        return f"{job.plan.n_images} images of {nx} x {ny} {job.plan.dtype_in} -> {job.template}"

    def notes(self, job: Export) -> list[str]:
        return []

    def afterthoughts(self, reports: Sequence[BlockReport]) -> list[str]:
        return []

    def summarise(self, job: Export, outcome: Outcome) -> ExportSummary:
        reports = [*outcome.reports, *outcome.kept]
        return ExportSummary(
            infile=os.path.abspath(job.options.infile),
            template=os.path.abspath(str(job.template)),
            images=sum(r.n_images for r in reports),
            kept_images=sum(r.n_images for r in outcome.kept),
            bytes_in=sum(r.bytes_read for r in reports),
            bytes_out=sum(sum(r.files.values()) for r in reports),
            seconds=outcome.seconds,
            workers=outcome.n_workers,
            warnings=list(outcome.warnings),
            ranks=by_rank(list(outcome.reports), outcome.seconds),
        )
