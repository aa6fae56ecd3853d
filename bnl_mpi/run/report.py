"""What a user sees of a run while it is at work, and what of it is the same for all tasks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from ..errors import OutputError
from ..job import Job
from ..options import Options
from ..output.text import for_people, say, write_asked
from ..plan import better_block_size, counted
from .task import BlockReport, Summary

LOG_SECONDS = 5.0
BAR_SECONDS = 0.1
BAR_WIDTH = 30


def idle_note(job: Job, n_workers: int) -> list[str]:
    """What the start line and the summary say of idle workers."""
    idle = n_workers - job.plan.n_blocks
    if idle <= 0:
        return []
    better = better_block_size(job.plan.n_images, n_workers)
    cure = f"-d {better} would give each one" if job.plan.n_images >= n_workers else "there are too few images"
    if not job.takes_block_size:
        cure = f"the work is {counted(job.plan.n_blocks, 'block')}"
    return [f"{idle} of {n_workers} workers have no block: {cure}"]


def tell_people(text: str, options: Options) -> None:
    """Print what happened; OutputError where it can't be."""
    try:
        say(text + "\n", for_people(options.json, options.log_json))
    except OSError as error:
        raise OutputError(f"the summary can't be printed: {error.strerror}; the output itself is complete") from error


def write_json(path: str, summary: Summary) -> None:
    write_json_object(path, summary.as_json())


def write_json_object(path: str, told: dict[str, Any]) -> None:
    """`--json`; OutputError where it can't be written."""
    write_asked("--json", path, json.dumps(told, indent=1) + "\n")


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
        f"block {report.number}, rank {report.rank} on {report.host}: {report.n_images} images, "
        f"{report.seconds:.2f} s, {raw / 1e6 / max(report.seconds, 1e-9):.0f} MB/s, "
        f"ratio {raw / max(1, report.bytes_written):.1f}"
    )


def raw_bytes_per_frame(job: Job) -> int:
    ny, nx = job.plan.shape_in
    return ny * nx * np.dtype(job.plan.dtype_in).itemsize


def by_rank(reports: Sequence[BlockReport], seconds: float) -> list[dict[str, Any]]:
    """For each rank: blocks, images, and seconds in each stage, at work and idle."""
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
