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

from .. import codecs
from ..codecs.contract import LossyCodec, Passed
from ..errors import BnlError
from ..input.frames import FrameReader
from ..job import Job
from ..output.blockfile import BlockWriter, SquashWriter, whole_file
from ..output.filters import Filter
from ..output.record import COUNTS, BlockRecord
from ..pixels import kernels
from ..plan import Block
from .reducer import Reducer

STAGES = ("read", "decode", "reduce", "code", "encode", "write")
"""Summing and finishing belong to `decode` where all are one pass over the chunks, as a rule; else to `reduce`."""

AT_ONCE = 8
"""How many frames' chunks are in memory at most: more would fill the caches that one pass over all lives from."""

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
    greatest_error: int = 0
    """Of the codec, in counts; 0 where it isn't measured."""
    squared_error: int = 0
    """Sum over the pixels of all images; 0 where it isn't measured."""
    n_different: int = 0
    """Images that didn't decode to the pixels that the run which coded them got."""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    rank: int = 0
    host: str = ""

    def add(self, passed: Passed) -> None:
        """Count what an image's codec did."""
        self.bytes_codestream += len(passed.codestream) if passed.codestream is not None else 0
        if passed.errors is not None:
            self.greatest_error = max(self.greatest_error, passed.errors.greatest)
            self.squared_error += passed.errors.squares


class BlockMaker:
    """Makes the files of one block after another: what reducing and expanding have in common."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job, self._rank = job, rank
        self._filter = Filter(job.options.compression, job.options.compression_level)
        self._encode = self._filter.encoder()
        self._host = socket.gethostname()
        self._watch = Stopwatch()
        self._bytes_read = 0

    def close(self) -> None:
        """Let go of the input's files."""

    def make(self, block: Block, progress: Progress | None = None) -> BlockReport:
        """Make the block's data file, and squash file if wanted; both appear whole or not at all."""
        job, options = self._job, self._job.options
        begin = time.perf_counter()
        self._watch, self._bytes_read = Stopwatch(), 0
        report = BlockReport(block.number, block.n_images, 0, rank=self._rank, host=self._host)
        data_path = options.data_path(block.number)
        squash_path = options.squash_path(block.number) if options.out_squash else None
        with ExitStack() as files:
            # The data file is entered first, so that it is renamed last: it tells that the block is whole.
            data_partial = files.enter_context(whole_file(data_path))
            squash_partial = files.enter_context(whole_file(squash_path)) if squash_path else None
            writer = BlockWriter(
                data_partial,
                block.n_images,
                job.plan.shape_out,
                job.plan.dtype_out,
                self._filter,
                self._record(block),
                block.first_image,
            )
            files.callback(writer.discard)
            squash = self._squash_writer(squash_partial, block)
            if squash is not None:
                files.callback(squash.discard)
            self._begin(block)
            for image in range(block.first_image, block.first_image + block.n_images):
                n_frames = len(job.plan.frames_of(image))
                self._make_image(image, writer, squash, report)
                report.n_frames += n_frames
                if progress:
                    progress(n_frames)
            report.bytes_read = self._bytes_read
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

    def _record(self, block: Block) -> BlockRecord:
        return BlockRecord(self._job.sha256, self._job.identity, block.number)

    def _squash_writer(self, partial: str | None, block: Block) -> SquashWriter | None:
        return None

    def _begin(self, block: Block) -> None:
        """Called before the block's first image."""

    def _make_image(self, image: int, writer: BlockWriter, squash: SquashWriter | None, report: BlockReport) -> None:
        """Make image `image`, counted from 0, and add it to `writer`."""
        raise NotImplementedError


_Chunks = dict[int, Any]
"""Stored bslz4 chunks by frame."""


class Pipeline(BlockMaker):
    """Makes blocks out of frames; keeps its buffers, its codec and the input file at hand from block to block."""

    def __init__(self, job: Job, rank: int = 0) -> None:
        super().__init__(job, rank)
        self._codec = codecs.make(job.options)
        dtype = self._codec.image_dtype if self._codec else job.plan.dtype_out
        self._stores_codestream = job.options.stores_codestreams
        self._reducer = Reducer(job, dtype)
        self._reader = FrameReader(job.source)
        integers = np.dtype(job.plan.dtype_in).kind != "f"
        self._fuses = integers and kernels.HAVE_BSLZ4

    def close(self) -> None:
        self._reader.close()

    def _record(self, block: Block) -> BlockRecord:
        record = super()._record(block)
        return self._listing_invalid(record) if self._stores_codestream else record

    def _listing_invalid(self, record: BlockRecord) -> BlockRecord:
        record.invalid, record.blank = [], self._reducer.blank
        return record

    def _squash_writer(self, partial: str | None, block: Block) -> SquashWriter | None:
        if partial is None or self._codec is None:
            return None
        config = self._codec.get_config()
        # Threads are the reader's own choice.
        config.pop("threads", None)
        attributes = {
            "compression": self._codec.label,
            "compression_level": self._codec.level,
            "shape": np.array(self._job.plan.shape_out, "<u4"),
            "dtype": self._codec.image_dtype,
            "codec": json.dumps(config, sort_keys=True),
        }
        record = self._listing_invalid(super()._record(block))
        return SquashWriter(partial, record, attributes, block.first_image)

    def _begin(self, block: Block) -> None:
        if self._codec is not None:
            self._codec.reset()

    def _make_image(self, image: int, writer: BlockWriter, squash: SquashWriter | None, report: BlockReport) -> None:
        reducer, watch, frames = self._reducer, self._watch, self._job.plan.frames_of(image)
        last = self._add_frames(frames)
        if self._codec is None:
            with self._decoding(last) as chunks:
                pixels = reducer.image(frames, chunks)
            passed = Passed(pixels)
        else:
            with self._decoding(last) as chunks:
                values = reducer.values(frames, chunks)
            with watch.stage("code"):
                passed = self._code(self._codec, values, squash is not None, frames)
            pixels = passed.image
            if not self._stores_codestream:
                with watch.stage("reduce"):
                    pixels = reducer.mark(passed.image)
        chunk = passed.codestream
        if not self._stores_codestream:
            with watch.stage("encode"):
                chunk = self._encode(pixels)
        with watch.stage("write"):
            writer.add(chunk, pixels, frames)
            if squash is not None and passed.codestream is not None:
                squash.add(passed.codestream, pixels, frames)
            for record in (writer.record, squash.record if squash else None):
                if record is not None and record.invalid is not None:
                    record.invalid.append(reducer.invalid_beyond_blank())
        report.n_clipped += reducer.n_clipped
        report.n_invalid += reducer.n_invalid
        report.add(passed)

    def _add_frames(self, frames: range) -> _Chunks:
        """Add up the frames but for the last ones that can be decoded and finished in one pass: these are returned."""
        reader, reducer, watch = self._reader, self._reducer, self._watch
        read_before = reader.bytes_read
        waiting: _Chunks = {}
        for frame in frames:
            if len(waiting) == AT_ONCE:
                self._flush(waiting)
            with watch.stage("read"):
                fetched = reader.fetch(frame, reducer.frame, slot=len(waiting))
            if self._fuses and fetched.how == "bslz4":
                waiting[frame] = fetched.chunk
                continue
            with watch.stage("decode"):
                reader.decode(fetched, frame, reducer.frame)
            with watch.stage("reduce"):
                reducer.add()
        self._bytes_read += reader.bytes_read - read_before
        return waiting

    def _flush(self, waiting: _Chunks) -> None:
        with self._decoding(waiting) as chunks:
            self._reducer.add_chunks(chunks)
        waiting.clear()

    @contextmanager
    def _decoding(self, waiting: _Chunks) -> Iterator[list[Any]]:
        """Give the chunks; an error in one of them becomes one that names its frame."""
        with self._watch.stage("decode" if waiting else "reduce"):
            try:
                yield list(waiting.values())
            except kernels.ChunkError as error:
                raise self._reader.fault(list(waiting)[error.index], error) from error

    def _code(self, codec: LossyCodec, values: Any, keep: bool, frames: range) -> Passed:
        where = f"image of frames {frames.start + 1} to {frames.stop}"
        try:
            return codec.run(values, keep=keep)
        except BnlError as error:
            raise type(error)(f"{where}: {error}") from error
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BnlError(f"{where}: the codec {codec.label} failed: {reason}; give other settings") from error


def as_json(report: BlockReport) -> dict[str, Any]:
    return dataclasses.asdict(report)
