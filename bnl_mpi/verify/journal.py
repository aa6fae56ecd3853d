"""What was verified, a line a block, so that an interrupted run goes on and shares and subsets add up to a whole.

Each worker appends to a file of its own in `STEM.verify/`, so that nobody needs to agree with anybody.  A line counts
as long as the block's file, the raw data's identity and the program are what they were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from .._version import __version__
from ..codecs.passed import Errors
from ..errors import OutputError
from .blocks import VerifyReport
from .files import Hashed
from .job import VerifyJob

COUNTED = (
    "n_compared",
    "n_independent",
    "counts_before",
    "counts_stored",
    "n_clipped",
    "n_invalid",
)


def folder_of(job: VerifyJob) -> str:
    return f"{job.stem}.verify"


ERRORS = ("errors", "errors_by_shell")
FORMAT = 4
"""Of lines: 2 since they have `counts_before` and `bad_frames`, 3 since errors are image by image and by shell, 4 since
they have the shells' limits."""


def _key(job: VerifyJob) -> dict[str, Any]:
    """What must be the same for a line to count."""
    return {
        "plan_sha256": job.plan_sha256,
        "against": job.sha256 if job.against else None,
        "paranoid": job.paranoid,
        "version": __version__,
        "format": FORMAT,
    }


def _stamp(path: str) -> list[int]:
    try:
        told = os.stat(path)
    except OSError:
        return []
    return [told.st_size, told.st_mtime_ns]


def can_note(job: VerifyJob) -> bool:
    """Whether the journal can be written: a set in a folder that is only read is verified without one."""
    folder = os.path.abspath(folder_of(job))
    return os.access(folder if os.path.isdir(folder) else os.path.dirname(folder), os.W_OK | os.X_OK)


def is_needed(job: VerifyJob) -> bool:
    """Whether what is found has to outlast this process: for a certificate, and of shares."""
    return job.hashing or job.options.thread is not None


class Journal:
    """One worker's file, where it can be written."""

    def __init__(self, job: VerifyJob, rank: int) -> None:
        self._job, self._notes = job, can_note(job)
        number = job.options.thread if job.options.thread is not None else rank
        self._path = Path(folder_of(job)) / f"{number}.jsonl"

    def write(self, report: VerifyReport) -> None:
        """Note a block that was verified without a finding.  OutputError where there is no room for it."""
        if report.findings or not report.chosen or not self._notes:
            return
        line = {
            **_key(self._job),
            "block": report.number,
            "stamp": _stamp(self._job.data_files[report.number - 1]),
            "counts": {name: getattr(report, name) for name in COUNTED},
            **{name: [astuple(one) for one in getattr(report, name)] for name in ERRORS},
            "shell_limits": report.shell_limits,
            "bad_frames": report.bad_frames,
            "hashed": [asdict(one) for one in report.hashed],
        }
        try:
            self._path.parent.mkdir(exist_ok=True)
            with open(self._path, "ab", buffering=0) as file:
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise OutputError.unwritten(self._path, error) from error


def verified(job: VerifyJob) -> dict[int, VerifyReport]:
    """The blocks that need no second look, by number."""
    found: dict[int, VerifyReport] = {}
    key = _key(job)
    for line in _lines(folder_of(job)):
        number = line.get("block")
        if not isinstance(number, int) or not 1 <= number <= job.plan.n_blocks:
            continue
        if all(line.get(name) == value for name, value in key.items()) and _holds(job, line, number):
            found[number] = _report(job, line, number)
    return found


def _holds(job: VerifyJob, line: dict[str, Any], number: int) -> bool:
    stamp = line.get("stamp")
    return bool(stamp) and stamp == _stamp(job.data_files[number - 1]) and (bool(line.get("hashed")) or not job.hashing)


def _report(job: VerifyJob, line: dict[str, Any], number: int) -> VerifyReport:
    block = job.plan.block(number)
    report = VerifyReport(number, block.n_images, len(job.plan.frames_of_block(block)))
    for name, value in line["counts"].items():
        if name in COUNTED:
            setattr(report, name, int(value))
    for name in ERRORS:
        setattr(report, name, [Errors(*map(int, one)) for one in line[name]])
    report.shell_limits = tuple(map(float, line["shell_limits"]))
    report.bad_frames = [int(frame) for frame in line["bad_frames"]]
    report.hashed = [Hashed(**one) for one in line["hashed"]]
    return report


def _lines(folder: str) -> Iterator[dict[str, Any]]:
    for path in sorted(Path(folder).glob("*.jsonl")):
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # a run was killed while it wrote
            if isinstance(line, dict):
                yield line


def remove(job: VerifyJob) -> None:
    """When a certificate says it all."""
    folder = Path(folder_of(job))
    for path in folder.glob("*.jsonl"):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
