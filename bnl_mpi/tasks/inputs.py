"""What blocks were made of: noted in their records, and looked at again under `--resume` and at the end of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError
from ..hdf5 import access
from ..input import identity
from ..input.frames import FrameReader
from ..input.reading import Stamp
from ..job import Job
from ..output.record import GROUP, BlockRecord
from ..run.files import SetFiles
from ..run.task import BlockReport, Kept
from .report import ImageReport


def note(
    reader: FrameReader, frames: range, bad: Sequence[int], report: ImageReport, records: Sequence[BlockRecord]
) -> None:
    """Note in a block's report and records what was read of it; InputError where a file changed meanwhile."""
    if changed := identity.changed(reader.stamps):
        raise InputError("; ".join(changed))
    read = identity.block_input(reader, frames, bad)
    report.inputs = dict(reader.stamps)
    report.bad_frames = read.bad_frames
    for record in records:
        record.extra |= read.datasets()


def told_of_input(job: Job) -> dict[str, Any]:
    """Items for the masters: frames that the blocks which are there list as bad, and files that never came."""
    bad: list[int] = []
    for block in job.plan.blocks() if job.options.skip_bad_frames else ():
        read = _read(job.options.data_path(block.number))
        bad += read.bad_frames if read is not None else []
    missing = {"missing_files": list(job.source.missing)} if job.source.missing else {}
    return {"bad_frames": bad, **missing} if bad else missing


def _read(path: str) -> identity.BlockInput | None:
    if not os.path.exists(path):
        return None
    with access.open_read(path) as file:
        return identity.read_block_input(file[GROUP])


class ReductionFiles(SetFiles):
    """A set's files, and with them those of its input: they are to stay what they were."""

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        kept = super().inspect(job, numbers, go_on)
        same: list[BlockReport] = []
        for report in kept.reports:
            path = self.path(job, report.number)
            line = _other_input(job, report, path)
            if line is None:
                same.append(report)
            else:
                kept.foreign.append(f"{path}: belongs to another job ({line}); choose another -o, or --force")
        kept.reports = same
        return kept

    def changed(self, job: Job, reports: Sequence[BlockReport]) -> list[str]:
        stamps = {} if job.source.stamp is None else {job.source.master: Stamp(*job.source.stamp)}
        differ = set()
        for report in reports:
            for path, one in report.inputs.items() if isinstance(report, ImageReport) else ():
                if stamps.setdefault(path, Stamp(*one)) != one:
                    differ.add(f"{path}: was changed or replaced while the run went on; start again with --force")
        return [*super().changed(job, reports), *sorted({*differ, *identity.changed(stamps)})]


def _other_input(job: Job, report: BlockReport, path: str) -> str | None:
    """Why a sound block is of another input than the job's; None if it isn't."""
    read = _read(path)
    if read is None:
        return None
    if isinstance(report, ImageReport):
        report.bad_frames = read.bad_frames
    return identity.differs(job.source, job.plan.frames_of_block(job.plan.block(report.number)), read)
