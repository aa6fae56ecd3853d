"""One block: read, decode, reduce, code, encode, write.  The only place where these come together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import codecs
from .. import job as jobs
from ..codecs import registry
from ..codecs.passed import Passed
from ..errors import BnlError
from ..input import checks, identity
from ..input.frames import FrameError, FrameReader
from ..input.identity import BlockInput
from ..job import Job, PreparedReduction
from ..options import Options
from ..output.blockfile import SquashWriter
from ..output.filters import Filter
from ..output.record import BlockRecord
from ..output.whole import whole_files
from ..pixels import fused, kernels
from ..plan import Block
from ..run.task import Masters
from . import inputs
from .images import ImageMaker, ImageSink, ImageTask
from .reducer import Reducer
from .report import ImageReport

if TYPE_CHECKING:
    from ..codecs.contract import LossyCodec
    from ..hdf5.memory import Memory
    from .guard import Guard
    from .keeping import Keeper

AT_ONCE = 8
"""How many frames' chunks are in memory at most: more would fill the caches that one pass over all lives from."""

DECODED_OF = 16
"""Where codestreams are stored, no pixels are needed: a block's first image and every 16th after it are decoded, for
the codec's errors and the image's checksum."""

_Chunks = dict[int, Any]
"""Stored bslz4 chunks by frame."""


class Finished(NamedTuple):
    """An image that is ready to be stored."""

    passed: Passed
    pixels: Any
    """(ny, nx) as a reader decodes them; None where nobody needed them."""
    chunk: Any = None
    """None where the pixels are to be encoded."""
    crc32: int | None = None
    """Of the pixels, where these are None."""


class Pipeline(ImageMaker):
    """Makes blocks out of frames; keeps its buffers, its codec and the input file at hand from block to block."""

    def __init__(self, job: Job, rank: int = 0) -> None:
        super().__init__(job, rank)
        self._codec = codecs.make(job.options)
        self._guard: Guard | None = None
        if self._codec is not None and job.options.guard is not None:
            # Imported late, as the keeper: most jobs have neither, and start sooner without.
            from .guard import Guard

            self._guard = Guard(job.options, self._codec)
        dtype = self._codec.image_dtype if self._codec else job.plan.dtype_out
        self._stores_codestream = job.options.stores_codestreams
        # What is smooth over the gaps is small; marks in them aren't.
        lossless = job.keeping is not None and registry.storing(job.options.compression) is not None
        self._lists_invalid = self._stores_codestream or lossless
        self._reducer = Reducer(job, dtype)
        self._keeper: Keeper | None = None
        if job.keeping is not None:
            from .keeping import Keeper

            self._keeper = Keeper(job, self._reducer.blank)
        self._reader = FrameReader(job.source)
        self._bad: list[int] = []
        """Frames of the block in hand, from 0, that couldn't be read."""
        self._fuses = np.dtype(job.plan.dtype_in).kind != "f" and kernels.HAVE_BSLZ4
        self._streams = self._fuses and self._can_stream()
        self._first_image = 0

    def close(self) -> None:
        self._reader.close()

    def _can_stream(self) -> bool:
        """Whether images become chunks on the way, so that nobody needs their pixels."""
        options, codec = self._job.options, self._codec
        looked_at = self._keeper is not None or self._guard is not None or options.out_squash or self._lists_invalid
        if options.compression != "bslz4" or looked_at:
            return False
        tiling = None if codec is None else codec.tiling(self._job.plan.shape_out)
        return (codec is None or tiling is not None) and self._reducer.streams(tiling)

    def _record(self, block: Block) -> BlockRecord:
        record = super()._record(block)
        return self._listing_invalid(record) if self._lists_invalid else record

    def _listing_invalid(self, record: BlockRecord) -> BlockRecord:
        record.invalid, record.blank = [], self._reducer.blank
        return record

    def _squash_writer(self, partial: str, block: Block) -> SquashWriter | None:
        if self._codec is None:
            return None
        record = self._listing_invalid(super()._record(block))
        return SquashWriter(partial, record, block.first_image)

    def _about_codec(self) -> dict[str, Any]:
        """What a squash file tells of the image that was coded last."""
        codec = self._codec if self._guard is None else self._guard.codec
        assert codec is not None
        config = codec.get_config()
        # Threads are the reader's own choice.
        config.pop("threads", None)
        return {
            "compression": codec.label,
            "compression_level": codec.level,
            "shape": np.array(self._job.plan.shape_out, "<u4"),
            "dtype": codec.image_dtype,
            "codec": json.dumps(config, sort_keys=True),
        }

    def _begin(self, block: Block) -> None:
        self._first_image = block.first_image
        self._reader.begin()
        self._bad = []
        if self._guard is not None:
            self._guard.begin()
        elif self._codec is not None:
            self._codec.reset()
        if self._keeper is not None:
            self._keeper.begin()

    def read_of(self, block: Block) -> BlockInput:
        """What was read since the block's first image, of its frames."""
        return identity.block_input(self._reader, self._job.plan.frames_of_block(block), self._bad)

    def _decoded(self, chunk: bytes) -> Any:
        if self._stores_codestream:
            assert self._codec is not None
            return self._codec.decode(chunk)
        pixels = np.empty(self._job.plan.shape_out, self._job.plan.dtype_out)
        kernels.bslz4_decode(chunk, pixels)
        return pixels

    def _make_image(self, image: int, writer: ImageSink, squash: SquashWriter | None, report: ImageReport) -> None:
        reducer, watch, frames = self._reducer, self._watch, self._job.plan.frames_of(image)
        if self._stores_codestream and (image - self._first_image) % DECODED_OF == 1:
            kernels.release()  # What was decoded of the image before left a hole.
        try:
            made = self._finish(image, self._add_frames(frames), report, keep=squash is not None)
        except FrameError:
            if not self._job.options.skip_bad_frames:
                raise
            self._find_bad(frames)
            reducer.blot()
            made = self._finish(image, {}, report, keep=squash is not None)
        passed, chunk = made.passed, made.chunk
        if chunk is None:
            with watch.stage("encode"):
                chunk = self._encode(made.pixels)
        with watch.stage("write"):
            writer.add(chunk, made.pixels, frames, made.crc32)
            if squash is not None and passed.codestream is not None:
                squash.add(passed.codestream, made.pixels, frames, self._about_codec())
            for record in (writer.record, squash.record if squash else None):
                if record is not None and record.invalid is not None:
                    record.invalid.append(reducer.invalid_beyond_blank())
        report.n_clipped += reducer.n_clipped
        report.n_invalid += reducer.n_invalid
        report.add(passed)

    def _finish(self, image: int, last: _Chunks, report: ImageReport, *, keep: bool) -> Finished:
        """The image of the frames that were added and of `last`."""
        reducer, watch, frames = self._reducer, self._watch, self._job.plan.frames_of(image)
        if self._streams and last:
            with self._decoding(last) as chunks:
                image_chunk = reducer.chunk(chunks)
            watch.move("decode", "code", image_chunk.code_seconds)
            watch.move("decode", "encode", image_chunk.encode_seconds)
            return Finished(Passed(None), None, image_chunk.chunk, image_chunk.crc32)
        if self._codec is None and self._keeper is None:
            with self._decoding(last) as chunks:
                pixels = reducer.image(frames, chunks)
            return Finished(Passed(pixels), pixels)
        keeper = self._keeper
        pooled = None if keeper is None else keeper.take(image)
        with self._decoding(last) as chunks:
            values = reducer.values(frames, chunks, pooled)
            chunks.clear()
        if keeper is not None and keeper.makes_chunks and (made := self._keep_to_chunk(keeper, values, report)):
            return made
        kept = None if keeper is None else self._keep(keeper, values, report)
        passed = Passed(values)
        if self._codec is not None:
            with watch.stage("code"):
                decode = not self._stores_codestream or (image - self._first_image) % DECODED_OF == 0
                if decode and self._stores_codestream:  # Few images need that much memory: chunks don't add to it.
                    last.clear()
                    self._reader.rest()
                passed = self._pass(self._codec, values, image, report, kept, keep=keep, pixels=decode)
        if self._lists_invalid:
            return Finished(passed, passed.image, passed.codestream if self._stores_codestream else None)
        assert passed.image is not None
        with watch.stage("reduce"):
            return Finished(passed, reducer.mark(passed.image))

    def _keep(self, keeper: Keeper, values: Any, report: ImageReport) -> Any:
        """`--keep`'s part: changes `values` in place; returns the flat indices of what is kept."""
        with self._watch.stage("reduce"):
            kept = keeper.apply(values, self._reducer.flags)
        report.add_kept(kept)
        return kept.where

    def _keep_to_chunk(self, keeper: Keeper, values: Any, report: ImageReport) -> Finished | None:
        """The same, with the chunk of what becomes of `values`; None where the image is all invalid."""
        with self._watch.stage("reduce"):
            made = keeper.chunk(values, self._reducer.flags)
        if made is None:
            return None
        kept, chunk = made
        report.add_kept(kept)
        self._watch.move("reduce", "encode", chunk.encode_seconds)
        return Finished(Passed(None), None, chunk.chunk, chunk.crc32)

    def _find_bad(self, frames: range) -> None:
        """Look at each frame of an image of which one can't be read, and note those."""
        reader, out = self._reader, self._reducer.frame
        for frame in frames:
            try:
                reader.decode(reader.fetch(frame, out), frame, out)
            except FrameError:
                self._bad.append(frame)

    def _end(self, block: Block, report: ImageReport, made: Sequence[BlockRecord]) -> None:
        inputs.note(self._reader, self._job.plan.frames_of_block(block), self._bad, report, made)
        self._reader.rest()
        if self._keeper is not None:
            for record in made:
                record.extra.update(self._keeper.record())

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
            except fused.ChunkError as error:
                raise self._reader.fault(list(waiting)[error.index], error) from error

    def _pass(
        self, codec: LossyCodec, values: Any, image: int, report: ImageReport, kept: Any, *, keep: bool, pixels: bool
    ) -> Passed:
        """An image through the codec, or, under `--guard`, through a gentler one if it has to be."""
        frames = self._job.plan.frames_of(image)
        if self._guard is None:
            return self._code(codec, values, frames, kept, keep=keep, pixels=pixels)

        def code(codec: LossyCodec, values: Any, wanted: bool) -> Passed:
            return self._code(codec, values, frames, kept, keep=keep, pixels=wanted)

        where = f"image of frames {frames.start + 1} to {frames.stop}"
        bad, index = self._reducer.invalid(), image - self._first_image
        return self._guard.run(values, index, bad, code, report, pixels=pixels, where=where)

    def _code(self, codec: LossyCodec, values: Any, frames: range, kept: Any, *, keep: bool, pixels: bool) -> Passed:
        where = f"image of frames {frames.start + 1} to {frames.stop}"
        try:
            return codec.run(values, keep=keep, pixels=pixels, where=kept)
        except BnlError as error:
            raise type(error)(f"{where}: {error}") from error
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BnlError(f"{where}: the codec {codec.label} failed: {reason}; give other settings") from error


class ReductionTask(ImageTask):
    """The main job."""

    files = inputs.ReductionFiles(ImageReport)

    def __init__(self, memory: Memory | None = None) -> None:
        """`memory` remembers inputs from run to run."""
        self._memory = memory

    def prepare(self, options: Options, *, trust_counts: bool = True) -> PreparedReduction:
        Filter(options.compression).check()
        return jobs.prepare(options, trust_counts=trust_counts, memory=self._memory)

    def check_inputs(self, job: Job, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        wanted = jobs.segments_of(job, numbers)
        return checks.check_segments(job.source, wanted, ignore_numbers=job.options.ignore_frame_numbers)

    def maker(self, job: Job, rank: int) -> Pipeline:
        return Pipeline(job, rank)

    def write_masters(self, prepared: PreparedReduction, files: ExitStack) -> Masters:
        return write_masters(prepared, files)


def write_masters(prepared: PreparedReduction, files: ExitStack) -> Masters:
    """Write the new master, and the NXmx file beside it; both get their names when `files` closes, the master last."""
    options = prepared.job.options
    paths = options.nxs_path, options.master_path
    new = files.enter_context(whole_files(*paths, optional=paths[:1]))
    # Imported late: workers make none, and a process alone makes its images first.
    from .masters import make_masters

    made = make_masters(prepared.job, prepared.experiment, new.partial[1], new.partial[0], prepared.known)
    new.flush()
    return made


REDUCTION = ReductionTask()
