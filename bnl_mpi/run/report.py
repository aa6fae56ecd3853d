"""What a user sees of a run: the start line, progress, the summary, and the same as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from ..codecs import registry
from ..job import Job
from ..options import XDS_COMPRESSIONS, Options
from ..pixels import kernels
from ..plan import better_block_size
from ..tasks.reduction import BlockReport

LOG_SECONDS = 5.0
BAR_SECONDS = 0.1
BAR_WIDTH = 30


@dataclass
class Summary:
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
    """Over all pixels of all images, in counts, by the codec."""
    seconds: float
    xds_template: str | None
    """None where XDS can't read the files."""
    warnings: list[str]
    ranks: list[dict[str, Any]] = field(default_factory=list)
    """For each rank: blocks, images, and seconds in each stage, at work and idle."""

    def lines(self) -> list[str]:
        """The summary as text."""
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
        if self.rms_error is not None:
            out.append(f"codec's greatest error {self.greatest_error} counts, rms error {self.rms_error:.3f} counts")
        first = self.data_files[0]
        last = f" .. {os.path.basename(self.data_files[-1])}" if len(self.data_files) > 1 else ""
        out += [f"master {self.master}"]
        if self.nexus:
            out += [f"NeXus  {self.nexus}"]
        out += [f"data   {first}{last}"]
        if self.squash_files:
            out += [f"squash {self.squash_files[0]}{' ..' if len(self.squash_files) > 1 else ''}"]
        if self.xds_template is None:
            return [*out, *_htj2k_readers(self.master)]
        return [*out, f"NAME_TEMPLATE_OF_DATA_FRAMES= {self.xds_template}"]

    def write_json(self, path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)
            file.write("\n")


def _htj2k_readers(master: str) -> list[str]:
    """Who reads `-c htj2k`, and the way to a set for those who don't."""
    return [
        "HTJ2K opens with h5py and hdf5plugin 7.1 or later, and in programs in C (DIALS) with HDF5_PLUGIN_PATH set to",
        "hdf5plugin's folder of plugins; XDS's plugin doesn't read it. An XDS set of it comes from:",
        f"bnl-mpi expand {shlex.quote(master)} -c bslz4 -o NAME",
    ]


def notes(job: Job, n_workers: int) -> list[str]:
    """What the start line and the summary say of idle workers and of readers."""
    found = []
    idle = n_workers - job.plan.n_blocks
    if idle > 0:
        better = better_block_size(job.plan.n_images, n_workers)
        cure = f"-d {better} would give each one" if job.plan.n_images >= n_workers else "there are too few images"
        found.append(f"{idle} of {n_workers} workers have no block: {cure}")
    if not kernels.COMPILED:
        found.append(
            "the compiled kernels are not in use: NumPy does their work, several times slower; "
            "install a C compiler (gcc and Python's headers) and pip install bnl_mpi anew; inside a clone of its "
            "sources Python takes these, so leave that folder, or pip install -e ."
        )
    if job.options.compression not in (*XDS_COMPRESSIONS, "htj2k"):
        found.append(f"XDS's plugin reads bslz4 only, not {job.options.compression}: give -c bslz4 for XDS")
    return found


def afterthoughts(reports: Sequence[BlockReport]) -> list[str]:
    """Warnings that only the finished blocks give rise to."""
    n = sum(r.n_different for r in reports)
    if not n:
        return []
    return [
        f"{n} image{'s' * (n > 1)} decoded to other pixels than in the run that coded them: another build of the codec "
        "rounds otherwise; the checksums in the new data files are those of the new pixels"
    ]


def start_line(job: Job, n_workers: int) -> str:
    plan, options = job.plan, job.options
    oy, ox = plan.shape_out
    codec = f", {options.codec} {_target(options)}" if options.codec else ""
    return (
        f"bnl-mpi: {plan.n_frames} frames of {plan.shape_in[1]} x {plan.shape_in[0]} {plan.dtype_in} -> "
        f"{plan.n_images} images of {ox} x {oy} {plan.dtype_out} in {plan.n_blocks} blocks{codec}, "
        f"{options.compression}; {n_workers} worker{'s' * (n_workers != 1)}"
    )


def _target(options: Options) -> str:
    if options.error_target is None:
        return f"{options.codec_level:g}"
    name, value = options.error_target
    return f"{name} {value:g}"


class ProgressLine:
    """A bar on a terminal, a line every few seconds in a log; nothing when told to be quiet."""

    def __init__(self, n_frames: int, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._quiet = quiet
        self._n, self._done = n_frames, 0
        self._begin = self._shown = time.monotonic()

    def advance(self, n_frames: int) -> None:
        self._done += n_frames
        now = time.monotonic()
        if self._quiet or now - self._shown < (BAR_SECONDS if self._terminal else LOG_SECONDS):
            return
        self._shown = now
        rate = self._done / max(1e-9, now - self._begin)
        left = (self._n - self._done) / rate if rate else 0.0
        text = f"{self._done}/{self._n} frames, {rate:.1f} a second, {left:.0f} s left"
        if self._terminal:
            full = BAR_WIDTH * self._done // self._n
            self._stream.write(f"\r[{'#' * full}{'.' * (BAR_WIDTH - full)}] {text}\033[K")
        else:
            self._stream.write(f"bnl-mpi: {text}\n")
        self._stream.flush()

    def finish(self) -> None:
        if self._terminal and not self._quiet:
            self._stream.write("\r\033[K")
            self._stream.flush()


def block_line(report: BlockReport, raw_bytes_per_frame: int) -> str:
    """`-v`'s line for a block."""
    raw = report.n_frames * raw_bytes_per_frame
    return (
        f"bnl-mpi: block {report.number}, rank {report.rank} on {report.host}: {report.n_images} images, "
        f"{report.seconds:.2f} s, {raw / 1e6 / max(report.seconds, 1e-9):.0f} MB/s, "
        f"ratio {raw / max(1, report.bytes_written):.1f}"
    )


def raw_bytes_per_frame(job: Job) -> int:
    ny, nx = job.plan.shape_in
    return ny * nx * np.dtype(job.plan.dtype_in).itemsize


def summarise(
    job: Job,
    reports: list[BlockReport],
    *,
    kept: Sequence[BlockReport] = (),
    n_workers: int,
    seconds: float,
    nexus: bool,
    warnings: list[str],
) -> Summary:
    """Add up the blocks' reports; those `kept` from an interrupted run count, but not in the rates."""
    options, plan = job.options, job.plan
    raw = sum(r.n_frames for r in reports) * raw_bytes_per_frame(job)
    raw16 = plan.n_frames * plan.shape_in[0] * plan.shape_in[1] * 2

    def total(name: str) -> int:
        return sum(getattr(r, name) for r in [*reports, *kept])

    busy = sum(r.seconds for r in reports)
    bytes_in, bytes_out, streams = total("bytes_read"), total("bytes_written"), total("bytes_codestream")
    n_pixels = plan.n_images * plan.shape_out[0] * plan.shape_out[1]
    measured = options.codec is not None and registry.entry_of(options.codec).load().measures_errors
    numbers = [b.number for b in plan.blocks()]
    template = f"{options.master_path.removesuffix('.h5').removesuffix('_master')}_??????.h5"
    return Summary(
        infile=os.path.abspath(options.infile),
        master=os.path.abspath(options.master_path),
        nexus=os.path.abspath(options.nxs_path) if nexus else None,
        data_files=[os.path.abspath(options.data_path(k)) for k in numbers],
        squash_files=[os.path.abspath(options.squash_path(k)) for k in numbers] if options.out_squash else [],
        frames=plan.n_frames,
        images=plan.n_images,
        blocks=plan.n_blocks,
        kept_blocks=len(kept),
        workers=n_workers,
        idle_workers=max(0, n_workers - plan.n_blocks),
        clipped_pixels=total("n_clipped"),
        invalid_pixels=total("n_invalid"),
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        bytes_squash=total("bytes_squash"),
        ratio_to_input=bytes_in / max(1, bytes_out),
        ratio_to_raw16=raw16 / max(1, bytes_out),
        raw_mb_per_s=raw / 1e6 / max(seconds, 1e-9),
        raw_mb_per_s_per_worker=raw / 1e6 / max(busy, 1e-9),
        mean_codestream=streams / plan.n_images if streams else None,
        codestream_ratio=2 * n_pixels / streams if streams else None,
        greatest_error=max(r.greatest_error for r in [*reports, *kept]) if measured else None,
        rms_error=math.sqrt(total("squared_error") / n_pixels) if measured else None,
        seconds=seconds,
        xds_template=None if options.compression == "htj2k" else os.path.abspath(template),
        warnings=warnings,
        ranks=_by_rank(reports, seconds),
    )


def _by_rank(reports: list[BlockReport], seconds: float) -> list[dict[str, Any]]:
    ranks: dict[int, dict[str, Any]] = {}
    for r in sorted(reports, key=lambda r: (r.rank, r.number)):
        row = ranks.setdefault(r.rank, {"rank": r.rank, "host": r.host, "blocks": 0, "images": 0, "busy": 0.0})
        row["blocks"] += 1
        row["images"] += r.n_images
        row["busy"] += r.seconds
        for stage, spent in r.stages.items():
            row[stage] = row.get(stage, 0.0) + spent
    for row in ranks.values():
        row["idle"] = max(0.0, seconds - row["busy"])
    return list(ranks.values())
