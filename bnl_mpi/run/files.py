"""The files of a run as a whole: those of a data set with its masters, or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ..errors import BnlError
from ..hdf5 import access
from ..hdf5.writing import Stamp, WriteError, stamp_of
from ..job import Job
from ..output import blockfile, places, record, whole
from . import resume
from .task import BlockReport, Kept, Masters


def make_folder(folder: str) -> list[str]:
    """Make a folder that isn't there; tells so, in a line.  One level: a slip in a longer path is better heard of."""
    with contextlib.suppress(OSError):
        os.mkdir(folder)
        return [f"{folder}: made for the output"]
    return []


class SetFiles:
    """Blocks (and squash files) of a stem, and their masters."""

    remains = "blocks that were complete remain, no master is written; --resume keeps them"

    def __init__(self, report: Callable[[int, int, int], BlockReport]) -> None:
        """`report` makes the task's report of a block's number, images and frames."""
        self._new_report = report

    def stems(self, job: Job, share: int | None = None) -> list[str]:
        options = job.options
        stems = [options.out_file] + ([options.out_squash] if options.out_squash else [])
        if not share:
            # As a rule the same as the first: OUT_master.h5 and OUT.nxs belong to OUT.
            stems.append(options.nxs_path.removesuffix(".nxs"))
        return stems

    def path(self, job: Job, number: int) -> str:
        return job.options.data_path(number)

    def make_folders(self, job: Job) -> list[str]:
        options = job.options
        paths = (options.out_file, options.out_squash, options.out_master)
        return [
            line for path in paths for line in make_folder(os.path.dirname(os.path.abspath(path or options.out_file)))
        ]

    def check_places(self, job: Job) -> None:
        places.check_places(job)

    def check_existing(self, job: Job, *, share: int | None = None) -> None:
        places.check_existing(job, share=share)
        if share and not (job.options.force or job.options.resume):
            # Share 0 may have come first.
            resume.check_whose_masters(job)

    def stored_block_size(self, job: Job) -> int | str | None:
        return resume.stored_block_size(job)

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        return resume.inspect(job, numbers, go_on, self._report)

    def check_neighbours(self, job: Job) -> None:
        resume.check_neighbours(job)

    def masters_there(self, job: Job) -> Masters | None:
        return Masters(os.path.exists(job.options.nxs_path)) if resume.check_masters(job) else None

    def changed(self, job: Job, reports: Sequence[BlockReport]) -> list[str]:
        found = [_changed(job, report, path) for report in reports for path in report.files]
        return sorted(line for line in found if line)

    def there(self, job: Job) -> list[BlockReport]:
        numbers = range(1, job.plan.n_blocks + 1)
        return [self._report(job, k) for k in numbers if not any(_strange(job, k, p) for p in resume.paths(job, k))]

    def remove_own(self, job: Job, numbers: Sequence[int]) -> None:
        for path in (path for number in numbers for path in resume.paths(job, number)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def remove_foreign(self, job: Job) -> None:
        stems = filter(None, (job.options.out_file, job.options.out_squash))
        for path in (p for stem in stems for p in blockfile.existing_blocks(stem).values()):
            if record.read_plan_sha256(path) != job.sha256:
                _bury(path, job.sha256)

    def remove_old_masters(self, job: Job) -> None:
        places.remove_old_masters(job)

    def remove_partial(self, job: Job, share: int | None = None) -> None:
        places.remove_partial_files(job, share)

    def remove_surplus(self, job: Job) -> None:
        places.remove_surplus_blocks(job)

    def _report(self, job: Job, number: int) -> BlockReport:
        """The report of a sound block, as its files tell it."""
        plan = job.plan
        block = plan.block(number)
        report = self._new_report(number, block.n_images, len(plan.frames_of_block(block)))
        paths = resume.paths(job, number)
        report.files = {path: os.path.getsize(path) for path in paths}
        for name, value in record.read_counts(paths[0]).items():
            setattr(report, name, value)
        return report


def _strange(job: Job, number: int, path: str) -> str | None:
    """Why the file isn't that of the block, as its name and its record tell; None if it is."""
    try:
        with access.open_read(path) as file:
            head = record.read_head(file)
    except (BnlError, KeyError, OSError, RuntimeError, TypeError, ValueError):
        return "is gone" if not os.path.lexists(path) else "can't be read any more"
    if (head.plan_sha256, head.number) != (job.sha256, number):
        return "belongs to another job now"
    return None


def _changed(job: Job, report: BlockReport, path: str) -> str | None:
    if _is_as_made(path, report.stamps.get(path)):
        return None
    why, size = _strange(job, report.number, path), report.files[path]
    if why is None and os.path.getsize(path) != size:
        why = f"had {size} bytes and has {os.path.getsize(path)}"
    return f"{path}: {why}, though this run made it or had found it sound" if why else None


def _is_as_made(path: str, made: Stamp | None) -> bool:
    """Whether that is the very file that got the name; where hosts see it differently it seems to be none."""
    try:
        return made is not None and stamp_of(path) == made
    except WriteError:
        return False


def _bury(path: str, sha256: str) -> None:
    """Remove a block of another job, unless a share at work puts this job's in its place just now."""
    grave = f"{path}.{os.uname().nodename[:32]}-{os.getpid()}{whole.PARTIAL}"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, grave)
        if record.read_plan_sha256(grave) == sha256:
            os.rename(grave, path)
        else:
            os.unlink(grave)


class NoFiles:
    """Of a task whose blocks write nothing: nothing to lock, to keep or to remove."""

    remains = "nothing was written"

    def stems(self, job: Job, share: int | None = None) -> list[str]:
        return []

    def path(self, job: Job, number: int) -> str:
        return job.source.master

    def make_folders(self, job: Job) -> list[str]:
        return []

    def check_places(self, job: Job) -> None:
        places.check_texts(job.options, [job.source.master])

    def check_existing(self, job: Job, *, share: int | None = None) -> None:
        pass

    def stored_block_size(self, job: Job) -> int | str | None:
        return None

    def inspect(self, job: Job, numbers: Sequence[int], go_on: Callable[[], bool]) -> Kept:
        return Kept()

    def check_neighbours(self, job: Job) -> None:
        pass

    def masters_there(self, job: Job) -> Masters | None:
        return None

    def changed(self, job: Job, reports: Sequence[BlockReport]) -> list[str]:
        return []

    def there(self, job: Job) -> list[BlockReport]:
        return []

    def remove_own(self, job: Job, numbers: Sequence[int]) -> None:
        pass

    def remove_foreign(self, job: Job) -> None:
        pass

    def remove_old_masters(self, job: Job) -> None:
        pass

    def remove_partial(self, job: Job, share: int | None = None) -> None:
        pass

    def remove_surplus(self, job: Job) -> None:
        pass
