"""One block: read, decode, reduce, code, encode, write.  The only place where these come together."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import codecs, kernels
from .blockfile import COUNTS, BlockRecord, BlockWriter, SquashWriter, whole_file
from .errors import BnlError
from .filters import Filter
from .job import Job
from .plan import Block
from .reducer import Reducer
from .source import FrameReader

STAGES = ("read", "decode", "reduce", "code", "encode", "write")
"""Summing belongs to `decode` where both are one pass over the chunk, which is the rule; else to `reduce`."""

Progress = Callable[[int], None]
"""Called after each image with the number of frames that it was made of."""


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


@dataclass
class BlockReport:
    """What rank 0 hears of a finished block."""

    number: int
    n_images: int
    n_frames: int
    bytes_read: int = 0
    """As stored in the input."""
    bytes_written: int = 0
    """The data file's size."""
    bytes_squash: int = 0
    bytes_codestream: int = 0
    """0 where no codestream was made."""
    n_clipped: int = 0
    n_invalid: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    rank: int = 0
    host: str = ""


class Pipeline:
    """Makes blocks of one job; keeps its buffers, its codec and the input file at hand from block to block."""

    def __init__(self, job: Job, rank: int = 0) -> None:
        self._job, self._rank = job, rank
        self._codec: Any = codecs.make(job.options)
        dtype = self._codec.image_dtype if self._codec else job.plan.dtype_out
        self._reducer = Reducer(job, dtype)
        self._filter = Filter(job.options.compression, job.options.compression_level)
        self._encode = self._filter.encoder()
        self._reader = FrameReader(job.source)
        integers = np.dtype(job.plan.dtype_in).kind != "f"
        self._fused = self._reducer.add_chunk if integers and kernels.HAVE_BSLZ4 else None
        self._host = socket.gethostname()
        self._watch = Stopwatch()

    def close(self) -> None:
        self._reader.close()

    def make(self, block: Block, progress: Progress | None = None) -> BlockReport:
        """Make the block's data file, and squash file if wanted; both appear whole or not at all."""
        job, options = self._job, self._job.options
        begin = time.perf_counter()
        self._watch = Stopwatch()
        report = BlockReport(block.number, block.n_images, 0, rank=self._rank, host=self._host)
        read_before = self._reader.bytes_read
        data_path = options.data_path(block.number)
        squash_path = options.squash_path(block.number) if options.out_squash else None
        with ExitStack() as files:
            # The data file is entered first, so that it is renamed last: it tells that the block is whole.
            data_partial = files.enter_context(whole_file(data_path))
            squash_partial = files.enter_context(whole_file(squash_path)) if squash_path else None
            writer = BlockWriter(
                data_partial, block.n_images, job.plan.shape_out, job.plan.dtype_out, self._filter,
                self._record(block), block.first_image,
            )  # fmt: skip
            files.callback(writer.discard)
            squash = self._squash_writer(squash_partial, block)
            if squash is not None:
                files.callback(squash.discard)
            if self._codec:
                self._codec.reset()
            for image in range(block.first_image, block.first_image + block.n_images):
                frames = job.plan.frames_of(image)
                self._make_image(frames, writer, squash, report)
                report.n_frames += len(frames)
                if progress:
                    progress(len(frames))
            report.bytes_read = self._reader.bytes_read - read_before
            writer.record.counts = {name: getattr(report, name) for name in COUNTS}
            with self._watch.stage("write"):
                writer.close()
                report.bytes_written = os.path.getsize(data_partial)
                if squash is not None and squash_partial:
                    squash.close()
                    report.bytes_squash = os.path.getsize(squash_partial)
                files.close()
        report.seconds = time.perf_counter() - begin
        report.stages = dict(self._watch.seconds)
        return report

    def _record(self, block: Block, *, lists_invalid: bool = False) -> BlockRecord:
        return BlockRecord(
            self._job.sha256, self._job.identity, block.number, invalid=[] if lists_invalid else None
        )

    def _squash_writer(self, partial: str | None, block: Block) -> SquashWriter | None:
        if partial is None:
            return None
        attributes = {
            "compression": self._codec.label,
            "compression_level": self._codec.level,
            "shape": np.array(self._job.plan.shape_out, "<u4"),
            "dtype": self._codec.image_dtype,
            "codec": json.dumps(self._codec.get_config(), sort_keys=True),
        }
        return SquashWriter(partial, self._record(block, lists_invalid=True), attributes, block.first_image)

    def _make_image(
        self, frames: range, writer: BlockWriter, squash: SquashWriter | None, report: BlockReport
    ) -> None:
        reducer, watch = self._reducer, self._watch
        for frame in frames:
            with watch.stage("read"):
                fetched = self._reader.fetch(frame, reducer.frame)
            with watch.stage("decode"):
                in_buffer = self._reader.decode(fetched, frame, reducer.frame, fused=self._fused)
            if in_buffer:
                with watch.stage("reduce"):
                    reducer.add()
        with watch.stage("reduce"):
            values = reducer.values(frames)
        codestream = None
        if self._codec is not None:
            with watch.stage("code"):
                values, codestream = self._code(values, squash is not None, frames)
        with watch.stage("reduce"):
            image = reducer.mark(values)
        with watch.stage("encode"):
            chunk = self._encode(image)
        with watch.stage("write"):
            writer.add(chunk, image, frames)
            if squash is not None and codestream is not None:
                squash.add(codestream, image, frames)
                assert squash.record.invalid is not None
                squash.record.invalid.append(np.flatnonzero(reducer.invalid()).astype("<u4"))
        report.n_clipped += reducer.n_clipped
        report.n_invalid += reducer.n_invalid
        report.bytes_codestream += len(codestream) if codestream is not None else 0

    def _code(self, values: Any, keep: bool, frames: range) -> tuple[Any, bytes | None]:
        """The image as the codec gives it back, and the codestream where one was made."""
        try:
            if keep or not self._codec.skips_coder:
                codestream = self._codec.encode(values)
                decoded = (
                    self._codec.roundtrip(values)
                    if self._codec.skips_coder
                    else self._codec.decode(codestream)
                )
                return decoded, codestream
            return self._codec.roundtrip(values), None
        except BnlError as error:
            raise type(error)(f"image of frames {frames.start + 1} to {frames.stop}: {error}") from error


def as_json(report: BlockReport) -> dict[str, Any]:
    return dataclasses.asdict(report)
