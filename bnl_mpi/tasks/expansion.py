"""The command `bnl-mpi expand MASTER -o OUT`: from codestreams to a full data set that XDS and DIALS read.

Two kinds of sets keep codestreams: a run with `-q` beside its images (/entry/squash in its master), and one
with `-c htj2k` as its images.  One with `--keep` is small in any form, and can be had in another.  What comes out is,
bit for bit, what a run of the same options without `-q`, and with this `-c`, stores; so its plan is that run's, and so
are its blocks.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import h5py
import numpy as np

from .. import codecs
from .._version import __version__
from ..errors import BnlError, InputError, UsageError
from ..hdf5 import access, guard
from ..hdf5.names import DATA, IMAGES, PROCESS, SQUASH
from ..input import identity, links
from ..input.source import Segment, Source
from ..job import Job, Prepared
from ..options import Options
from ..output import provenance
from ..output import record as records
from ..output.blockfile import SquashWriter
from ..output.filters import Filter
from ..pixels import kernels
from ..plan import Block, Plan
from ..run.task import Masters
from . import expanded
from .expanded import as_input_error
from .images import ImageMaker, ImageSink, ImageTask
from .keeping import DISCS, PIXELS
from .redrawing import Redrawer, Redrawing, redrawing_notes, redrawing_of
from .report import ImageReport

if TYPE_CHECKING:
    from ..codecs.contract import LossyCodec

DEFAULT_COMPRESSION = "bslz4"


def options_for(master: str, given: Mapping[str, Any]) -> Options:
    options = Options(infile=master, **{"compression": DEFAULT_COMPRESSION, **given})
    if options.compression == "htj2k":
        raise UsageError("-c htj2k is a form to expand from; give -c bslz4, which XDS reads, or another")
    if options.seed and options.background is None:
        raise UsageError("--seed goes with --background poisson: give it too")
    return options


# ---- before the first output ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Expansion(Job):
    """The job of making the full set; its source has one segment a block, the file that keeps its codestreams.

    `plan`, from frames to images, is that of the run which made the codestreams.
    """

    kept_sha256: str
    """Of the plan that the master tells, and the kept files must."""
    is_squash: bool
    is_plain: bool = False
    """Whether images are stored as they are to come out, marks and all: with `--keep` and another filter than htj2k."""
    redrawing: Redrawing | None = None  # with --background
    takes_block_size: ClassVar[bool] = False

    @property
    def of_kept(self) -> bool:
        return bool(json.loads(self.identity)["options"].get("keep"))

    def kept(self, number: int) -> Segment:
        """Where the codestreams of block `number` are."""
        return self.source.segments[number - 1]


@dataclass(frozen=True)
class PreparedExpansion(Prepared):
    job: Expansion


def prepare(options: Options, *, trust_counts: bool = True) -> PreparedExpansion:
    """Find the codestreams, and the plan that they were made by.  Opens nothing for writing."""
    master = links.find_master(options.infile)
    with guard.opened(master) as h5:
        is_squash, places = _kept_places(h5, master)
        wanted = access.get_dataset(h5, f"{PROCESS}/plan_sha256")
        sha256 = None if wanted is None else access.text(wanted[()])
    links.check_present([path for path, _ in places], master)
    first = places[0][0]
    told = records.read_plan(first)
    plan = _read_plan(told, first)
    if len(places) != plan.n_blocks:
        raise InputError(
            f"{master}: links {len(places)} files of codestreams, but {first} is one of {plan.n_blocks}; give the "
            "master of the whole set"
        )
    is_plain = not is_squash and not expanded.is_htj2k(*places[0])
    if is_plain and not told["options"].get("keep"):
        raise InputError(
            f"{master}: nothing to expand: it has neither {SQUASH}, as a run with -q makes it, nor HTJ2K images, as "
            "-c htj2k makes them, nor was it made with --keep"
        )
    blocks = zip(places, plan.blocks(), strict=True)
    segments = tuple(Segment(path, name, 0, block.n_images) for (path, name), block in blocks)
    shape, dtype = plan.shape_out, plan.dtype_out
    kept = Source(os.path.abspath(master), segments, shape, dtype, channel=0, counts_known=True)
    job = Expansion(
        replace(options, data_block_size=told["options"].get("data_block_size", plan.block_size)),
        plan,
        kept,
        _identity_of_full_set(told, options),
        None,
        kept_sha256=sha256 or records.read_plan_sha256(first) or "",
        is_squash=is_squash,
        is_plain=is_plain,
        redrawing=redrawing_of(options, told["options"], master),
    )
    Filter(options.compression).check()
    return PreparedExpansion(job, ())


def _kept_places(h5: h5py.File, master: str) -> tuple[bool, list[tuple[str, str]]]:
    """Whether there is a squash, and (path, object) of each block's codestreams, in order."""
    squash = access.get_group(h5, SQUASH)
    group = squash if squash is not None else access.get_group(h5, DATA)
    found = []
    for name in sorted(group) if group is not None else ():
        link = access.link(group, name)
        if isinstance(link, h5py.ExternalLink) and (squash is not None or access.is_data_link(group, name)):
            found.append((links.resolve_link(link.filename, master), link.path))
    if not found:
        raise InputError(f"{master}: links no files, neither in {SQUASH} nor in {DATA}; give a master of this program")
    return squash is not None, found


def _read_plan(told: Mapping[str, Any], path: str) -> Plan:
    if not told:
        access.open_read(path).close()
        raise InputError(f"{path}: not made by bnl-mpi, nothing to expand; give the master of a set that was")
    try:
        if not isinstance(told["options"], dict):
            raise TypeError("options")
        return records.plan_from(told["plan"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        version = told.get("version", "unknown")
        raise InputError(
            f"{path}: {records.GROUP}/plan isn't understood (written by version {version}, this is {__version__}); "
            "give a set that bnl-mpi made"
        ) from error


def _identity_of_full_set(told: Mapping[str, Any], options: Options) -> str:
    """The identity of the run that would make the full set from the frames; of none where the background is drawn."""
    changed = {"compression": options.compression, "compression_level": options.compression_level, "squash": False}
    if options.background is not None:
        changed |= {"background": options.background, "seed": options.seed}
    return json.dumps({**told, "options": {**told["options"], **changed}}, sort_keys=True)


def check_inputs(job: Expansion, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
    """Open the kept files of the blocks `numbers`; a line for each that is unfit."""
    problems = [line for number in numbers if (line := _problem(job, number))]
    return problems, {}


def _problem(job: Expansion, number: int) -> str | None:
    path = job.kept(number).path
    try:
        with guard.opened(path, job.plan.shape_out) as file:
            head = records.read_head(file)
    except BnlError as error:
        return str(error)
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        return f"{path}: {records.GROUP} is absent or damaged ({reason}); restore the file"
    if head.plan_sha256 != job.kept_sha256:
        return f"{path}: is of another run than {job.source.master}; restore the file of that run"
    if head.number != number or head.n_images != job.plan.block(number).n_images:
        return f"{path}: is block {head.number} of {head.n_images} images, linked as block {number}; restore the file"
    return None


# ---- the work -------------------------------------------------------------------------------------------


@dataclass
class KeptBlock:
    """An open file of codestreams, of one block."""

    path: str
    file: h5py.File
    chunk_crc32: Any
    image_crc32: list[int | None]
    invalid: records.InvalidPixels | None
    """None where the decoded images hold their marks: they were coded without loss."""
    codec: LossyCodec | None
    """What a squash was coded with; None for `-c htj2k`."""
    input: identity.BlockInput | None
    """What the images were made of; None where an older version didn't tell."""


class Expander(ImageMaker):
    """Makes blocks out of codestreams."""

    def __init__(self, job: Expansion, rank: int = 0) -> None:
        super().__init__(job, rank)
        self._expansion = job
        self._kept: KeptBlock | None = None
        dtype = np.dtype(job.plan.dtype_out)
        self._out = np.zeros(job.plan.shape_out, dtype)
        self._mark = kernels.mark_value(dtype)
        self._first_image = 0
        drawn = job.redrawing
        self._redrawer = None if drawn is None else Redrawer(drawn, job.plan)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.file.close()
        self._kept = None

    def _begin(self, block: Block) -> None:
        self.close()
        path, self._first_image = self._expansion.kept(block.number).path, block.first_image
        file = access.open_read(path)
        with as_input_error(path):
            _check_record(file)
            group = file[records.GROUP]
            self._kept = KeptBlock(
                path,
                file,
                group["chunk_crc32"][()],
                records.image_checksums(file),
                records.read_invalid(file, self._expansion.plan.shape_out),
                self._codec_of(file, block) if self._expansion.is_squash else None,
                identity.read_block_input(group),
            )

            if self._redrawer is not None:
                self._redrawer.begin(group)

    def _end(self, block: Block, report: ImageReport, made: Sequence[records.BlockRecord]) -> None:
        if self._kept is None:
            return
        group = self._kept.file[records.GROUP]
        made[0].extra |= {name: group[name][()] for name in (PIXELS, DISCS) if name in group}
        if self._kept.input is not None:
            report.bad_frames = self._kept.input.bad_frames
            made[0].extra |= self._kept.input.datasets()

    @staticmethod
    def _codec_of(file: h5py.File, block: Block) -> LossyCodec:
        text = access.attribute_text(file[f"{DATA}/data_{block.first_image + 1:06d}"], "codec")
        return codecs.from_config(json.loads(text))

    def _make_image(self, image: int, writer: ImageSink, squash: SquashWriter | None, report: ImageReport) -> None:
        assert self._kept is not None
        kept, watch, index = self._kept, self._watch, image - self._first_image
        where = f"{kept.path}: image {image + 1}"
        with watch.stage("read"), as_input_error(where):
            codestream = self._codestream(kept, image, index)
            self._bytes_read += len(codestream)
        if zlib.crc32(codestream) != int(kept.chunk_crc32[index]):
            raise InputError(f"{where}: the codestream differs from its checksum; restore the file")
        with watch.stage("code"), as_input_error(where):
            decoded = self._decode(kept, codestream, index)
        with watch.stage("reduce"):
            pixels = self._marked(kept, decoded, index, report)
        # A squash tells the checksum of the image as it was stored, a chunk that of its decode.
        compared = pixels if self._expansion.is_squash else decoded
        if kept.image_crc32[index] not in (None, zlib.crc32(compared.data)):
            report.n_different += 1
            report.builds = report.builds or provenance.builds(self._job.source.master, expanded.coder(self._job))
        if self._redrawer is not None:
            with watch.stage("reduce"), as_input_error(where):
                pixels = self._redrawer.redraw(pixels, image, index)
        with watch.stage("encode"):
            chunk = self._encode(pixels)
        with watch.stage("write"):
            writer.add(chunk, pixels, self._expansion.plan.frames_of(image))
        report.bytes_codestream += len(codestream)

    def _codestream(self, kept: KeptBlock, image: int, index: int) -> bytes:
        if self._expansion.is_squash:
            return bytes(kept.file[f"{DATA}/data_{image + 1:06d}"][()].tobytes())
        _, chunk = kept.file[IMAGES].id.read_direct_chunk((index, 0, 0))
        return bytes(chunk)

    def _decode(self, kept: KeptBlock, codestream: bytes, index: int) -> np.ndarray[Any, Any]:
        if self._expansion.is_plain:
            return np.asarray(access.read(kept.file[IMAGES], index), self._out.dtype)
        if kept.codec is not None:
            return kept.codec.decode_stored(codestream, self._expansion.plan.shape_out)
        from ..codecs import openjph

        return openjph.decode_stored(codestream, self._expansion.plan.shape_out, self._out.dtype)

    def _marked(
        self, kept: KeptBlock, decoded: np.ndarray[Any, Any], index: int, report: ImageReport
    ) -> np.ndarray[Any, Any]:
        """The image as the run would have stored it: clipped to 0..satval', invalid pixels marked."""
        if kept.invalid is None:
            report.n_invalid += int(np.count_nonzero(decoded == self._mark))
            return decoded
        invalid = kept.invalid.of(index)
        report.n_invalid += int(np.count_nonzero(invalid))
        flags = np.where(invalid, kernels.FLAG_INVALID, 0).astype(np.uint8)
        kernels.mark(decoded, flags, None, int(self._expansion.plan.limit), int(self._mark), self._out)
        return self._out


def _check_record(file: h5py.File) -> None:
    """Refuse a file of which anything but the codestreams, which have checksums of their own, isn't as written."""
    head = records.read_head(file)
    if records.sha256_of(access.text(file[records.GROUP]["plan"][()])) != head.plan_sha256:
        raise ValueError(f"{records.GROUP}/plan isn't the plan that its hash is of")
    if head.content_sha256 is not None and head.content_sha256 != records.digest(file):
        raise ValueError(f"its content differs from the digest in {records.GROUP}")


class ExpansionTask(ImageTask):
    """The full set of a smaller one."""

    def prepare(self, options: Options, *, trust_counts: bool = True) -> PreparedExpansion:
        return prepare(options, trust_counts=trust_counts)

    def check_inputs(self, job: Expansion, numbers: Sequence[int]) -> tuple[list[str], dict[int, int]]:
        return check_inputs(job, numbers)

    def notes(self, job: Job) -> list[str]:
        return [*super().notes(job), *redrawing_notes(job.options)]

    def maker(self, job: Expansion, rank: int) -> Expander:
        return Expander(job, rank)

    def write_masters(self, prepared: PreparedExpansion, files: ExitStack) -> Masters:
        return expanded.write_masters(prepared.job, files)


EXPANSION = ExpansionTask()
