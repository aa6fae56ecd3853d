"""What all tasks that make a set of images have in common: the maker's frame, its report, and the words of a run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..hdf5.writing import stamp_of
from ..job import Job
from ..options import Options
from ..output.blockfile import BlockWriter, SquashWriter
from ..output.filters import Filter
from ..output.record import COUNTS, BlockRecord, stem_of
from ..output.whole import NewFiles
from ..plan import Block
from ..run.files import SetFiles
from ..run.task import BlockReport, Made, Outcome, Overseer
from . import beginning
from . import report as words
from .report import ImageReport, SetSummary

STAGES = ("read", "decode", "reduce", "code", "encode", "write")
"""Summing and finishing belong to `decode` where all are one pass over the chunks, as a rule; else to `reduce`."""


class Stopwatch:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def move(self, name: str, to: str, seconds: float) -> None:
        """Count seconds of the stage `name` as those of another that went on within."""
        self.seconds[name] -= seconds
        self.seconds[to] += seconds


class ImageSink(Protocol):
    """What takes a block's images: its data file's writer, or what only looks at them."""

    record: BlockRecord

    def add(self, chunk: Any, image: np.ndarray[Any, Any] | None, frames: range, crc32: int | None = None) -> None: ...


class Caught:
    """Takes images in a writer's place, and writes nothing."""

    def __init__(self, record: BlockRecord, *, copies: bool) -> None:
        self.record, self._copies = record, copies
        self.chunk: Any = b""
        self.pixels: np.ndarray[Any, Any] | None = None

    def add(self, chunk: Any, image: np.ndarray[Any, Any] | None, frames: range, crc32: int | None = None) -> None:
        self.chunk, self.pixels = chunk, image
        if self._copies:
            self.chunk, self.pixels = bytes(chunk), None if image is None else image.copy()


class Sampled(NamedTuple):
    """An image as a run would store it."""

    chunk: Any
    """Bytes, as stored."""
    pixels: np.ndarray[Any, Any]
    """(ny, nx), as a reader decodes them."""
    invalid: np.ndarray[Any, Any] | None
    """Flat indices of invalid pixels beyond those of every image, where the chunk can't hold marks."""
    report: ImageReport


class ImageMaker:
    """Makes the files of one block after another: what reducing and expanding have in common."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job, self._rank = job, rank
        options = job.options
        self._filter = Filter(options.compression, options.compression_level, kept=job.of_kept)
        self._encode = self._filter.encoder()
        self._host = os.uname().nodename
        self._watch = Stopwatch()
        self._bytes_read = 0

    def close(self) -> None:
        """Let go of the input's files."""

    def make(self, block: Block, overseer: Overseer | None = None) -> Made:
        """Make the block's data file, and squash file if wanted; both appear whole or not at all.

        The disk is waited for in the background.
        """
        options, overseer = self._job.options, overseer or Overseer()
        begin = time.perf_counter()
        self._watch, self._bytes_read = Stopwatch(), 0
        report = ImageReport(block.number, block.n_images, 0, rank=self._rank, host=self._host)
        # The data file is renamed last: it tells that the block is whole.
        paths = [options.squash_path(block.number)] if options.out_squash else []
        paths.append(options.data_path(block.number))
        new = NewFiles(*paths)
        with new.gone_on_error(), ExitStack() as files:
            writer = self._writer(new.partial[-1], block)
            files.callback(writer.discard)
            squash = self._squash_writer(new.partial[0], block) if options.out_squash else None
            if squash is not None:
                files.callback(squash.discard)
            self._make_images(block, writer, squash, report, overseer.after_image)
            with self._watch.stage("write"):
                writer.close()
                if squash is not None:
                    squash.close()
                files.close()
                report.stamps = {
                    path: stamp_of(name) for path, name in zip(paths[::-1], new.partial[::-1], strict=True)
                }
                report.files = {path: stamp.size for path, stamp in report.stamps.items()}
        report.seconds = time.perf_counter() - begin
        report.stages = dict(self._watch.seconds)
        return Made(report, lambda: new.name(overseer.before_naming), "write")

    def _writer(self, partial: str, block: Block) -> BlockWriter:
        plan = self._job.plan
        shape, record = plan.shape_out, self._record(block)
        return BlockWriter(
            partial, block.n_images, shape, plan.dtype_out, self._filter, record, first_image=block.first_image
        )

    def _make_images(
        self,
        block: Block,
        writer: BlockWriter,
        squash: SquashWriter | None,
        report: ImageReport,
        after_image: Callable[[int], None],
    ) -> None:
        self._begin(block)
        for image in block.images:
            n_frames = len(self._job.plan.frames_of(image))
            self._make_image(image, writer, squash, report)
            report.n_frames += n_frames
            after_image(n_frames)
        report.bytes_read = self._bytes_read
        self._end(block, report, [writer.record, *([squash.record] if squash else [])])
        writer.record.counts = {name: getattr(report, name) for name in COUNTS}

    def _record(self, block: Block) -> BlockRecord:
        stem = stem_of(self._job.options.out_file)
        return BlockRecord(self._job.sha256, self._job.identity, block.number, stem=stem)

    def _squash_writer(self, partial: str, block: Block) -> SquashWriter | None:
        return None

    def _begin(self, block: Block) -> None:
        """Called before the block's first image."""

    def sample(self, image: int, *, restart: bool, copies: bool = True) -> Sampled:
        """Image `image`, counted from 0, as a run stores it; `restart` where a block would begin with it.

        Without `copies` it holds until the next one is made.
        """
        block, begin = Block(1, image, 1), time.perf_counter()
        self._watch = Stopwatch()
        caught = Caught(self._record(block), copies=copies)
        report = ImageReport(1, 1, len(self._job.plan.frames_of(image)))
        if restart:
            self._begin(block)
        self._make_image(image, caught, None, report)
        report.seconds = time.perf_counter() - begin
        listed = caught.record.invalid
        pixels = self._decoded(caught.chunk) if caught.pixels is None else caught.pixels
        return Sampled(caught.chunk, pixels, listed[0] if listed else None, report)

    def _decoded(self, chunk: bytes) -> np.ndarray[Any, Any]:
        """The pixels of a chunk that was stored without a look at them."""
        raise NotImplementedError

    def _end(self, block: Block, report: ImageReport, made: Sequence[BlockRecord]) -> None:
        """Called after the block's last image, with the records of its files, the data file's first."""

    def _make_image(self, image: int, writer: ImageSink, squash: SquashWriter | None, report: ImageReport) -> None:
        """Make image `image`, counted from 0, and add it to `writer`."""
        raise NotImplementedError


class ImageTask:
    """The part of a task that is the same for all that make a set of images."""

    files = SetFiles(ImageReport)

    def get_ready(self, options: Options) -> None:
        beginning.get_ready(options)

    def start_line(self, job: Job) -> str:
        return beginning.start_line(job)

    def notes(self, job: Job) -> list[str]:
        return beginning.notes(job)

    def afterthoughts(self, reports: Sequence[BlockReport]) -> list[str]:
        return words.afterthoughts(_of_images(reports))

    def summarise(self, job: Job, outcome: Outcome) -> SetSummary:
        return words.summarise(job, outcome, _of_images(outcome.reports), _of_images(outcome.kept))


def _of_images(reports: Sequence[BlockReport]) -> list[ImageReport]:
    return [report for report in reports if isinstance(report, ImageReport)]
