"""`--log_json`: what happened, one JSON object a line, appended to a file; rank 0 or the one process writes it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from typing import Any

from ..errors import OutputError
from ..output.text import STANDARD_OUTPUT
from .task import BlockReport


class RunLog:
    """Each line has `time` (seconds since the epoch), `event` and the event's own items.

    Events: start, kept (a block of an earlier run), block, warning, stop, error, end.  Lines are appended by one
    write each, so that several shares may write to one file.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._file: int | None = None
        if path is None:
            return
        try:
            # A number of its own, to be closed, for standard output too.
            self._file = (
                os.dup(1) if path == STANDARD_OUTPUT else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            )
        except OSError as error:
            raise OutputError(f"--log_json {path}: can't be written: {error.strerror}") from error

    def write(self, event: str, **items: Any) -> None:
        if self._file is None:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **items}).encode() + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # A log is not worth a run.
            print(
                f"bnl-mpi: warning: --log_json {self.path}: can't be written any more: {error.strerror}; the run goes "
                "on without it",
                file=sys.stderr,
            )
            self.close()

    def start(self, infile: str, n_frames: int, n_images: int, n_blocks: int, n_workers: int) -> None:
        self.write(
            "start",
            infile=infile,
            frames=n_frames,
            images=n_images,
            blocks=n_blocks,
            workers=n_workers,
            host=os.uname().nodename,
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
        )

    def block(self, report: BlockReport, raw_bytes_per_frame: int) -> None:
        """A block that was made; rates and ratios are of its raw pixels."""
        raw = report.n_frames * raw_bytes_per_frame
        self.write(
            "block",
            block=report.number,
            rank=report.rank,
            host=report.host,
            images=report.n_images,
            frames=report.n_frames,
            seconds=round(report.seconds, 4),
            bytes=report.bytes_written,
            mb_per_s=round(raw / 1e6 / max(report.seconds, 1e-9), 2),
            ratio=round(raw / max(1, report.bytes_written), 3),
            stages={name: round(spent, 4) for name, spent in report.stages.items()},
        )

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                os.close(file)
